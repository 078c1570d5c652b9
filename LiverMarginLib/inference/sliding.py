"""A sliding window over blocks of voxels that never holds more of a volume than the blocks need.

Blocks overlap and are weighted by a Gaussian, so that a voxel is judged mostly by the block in whose middle it lies
(Isensee et al. 2021, nnU-Net). The blocks form a regular grid and the Gaussian is separable, so the sum of the weights
is a product of three lines and needs no memory of its own. Layers of blocks are done from the bottom up: rows that no
further block reaches are final and handed on, so that memory holds one layer, whatever the length of the volume.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from LiverMarginLib.network_grid import Triple
from LiverMarginLib.preprocessing import FloatImage

Predict = Callable[[FloatImage], FloatImage]

# Of the block's side, as nnU-Net and MONAI have it.
_SIGMA = 0.125


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where the windows along one axis begin: evenly spaced, the outermost flush with the ends.

    Parameters
    ----------
    length : int
        Samples along the axis.
    window : int
        Samples of a window.
    overlap : float
        The least share by which neighbours overlap, in [0, 1).

    Returns
    -------
    list of int
        ``[0]`` if one window covers it all, which may be longer than the axis.
    """
    if length <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((length - window) / step) + 1
    return [round(n * (length - window) / (count - 1)) for n in range(count)]


def window_weights(length: int) -> npt.NDArray[np.float32]:
    """Gaussian weights of a window's samples along one axis, highest 1, standard deviation an eighth of the side."""
    offset = (np.arange(length) - (length - 1) / 2) / (_SIGMA * length)
    return np.exp(-(offset**2) / 2).astype(np.float32)


class SlidingWindow:
    """Blocks that cover a grid.

    Parameters
    ----------
    shape : tuple of int
        (k, j, i) of the grid.
    block : tuple of int
        (k, j, i) of the network's input. Where it is longer than the grid, the grid lies in its middle.
    overlap : float
        The least share by which neighbouring blocks overlap.
    """

    def __init__(self, shape: Triple, block: Triple, overlap: float = 0.5) -> None:
        self.shape, self.block = shape, block
        # Where the grid begins in its own padded coordinates.
        self._before = tuple(max(0, b - n) // 2 for n, b in zip(shape, block, strict=True))
        self._padded = tuple(max(n, b) for n, b in zip(shape, block, strict=True))
        self._starts = [window_starts(n, b, overlap) for n, b in zip(self._padded, block, strict=True)]
        self._lines = [window_weights(b) for b in block]
        self._totals = [
            self._line_total(n, starts, line)
            for n, starts, line in zip(self._padded, self._starts, self._lines, strict=True)
        ]

    @staticmethod
    def _line_total(length: int, starts: list[int], line: FloatImage) -> npt.NDArray[np.float32]:
        total = np.zeros(length, np.float32)
        for start in starts:
            total[start : start + len(line)] += line
        return total

    def __len__(self) -> int:
        """Number of blocks."""
        return math.prod(len(starts) for starts in self._starts)

    def rows(
        self,
        row_of: Callable[[int], FloatImage],
        predict: Predict,
        channels: int,
        *,
        batch: int = 1,
        padding: float = 0.0,
        on_block: Callable[[int], None] = lambda done: None,
    ) -> Iterator[tuple[int, FloatImage]]:
        """Compute the weighted mean of the blocks' predictions, from the first row to the last.

        Parameters
        ----------
        row_of : callable
            Gives row k of the network's input, ndarray of float32, shape (j, i).
        predict : callable
            Takes (n, 1, k, j, i) and gives (m, channels, k, j, i) of the first ``1 <= m <= n`` blocks.
        channels : int
        batch : int
            Blocks that are given to `predict` together.
        padding : float
            Input where a block reaches beyond the grid.
        on_block : callable
            Told the number of blocks that are done, after each batch. It may raise.

        Yields
        ------
        tuple of int and ndarray of float32, shape (channels, n, j, i)
            First row, and rows that are final.
        """
        depth = self.block[0]
        in_plane = [slice(b, b + n) for b, n in zip(self._before[1:], self.shape[1:], strict=True)]
        window = np.full((depth, *self._padded[1:]), padding, np.float32)
        sums = np.zeros((channels, depth, *self._padded[1:]), np.float32)
        filled = done = 0  # rows of the padded grid that the window has seen
        starts = [*self._starts[0], self._padded[0]]
        for layer, start in enumerate(starts[:-1]):
            shift = start - starts[layer - 1] if layer else 0
            if shift:
                window[:-shift] = window[shift:]
            for k in range(filled, start + depth):
                inside = 0 <= k - self._before[0] < self.shape[0]
                window[k - start] = padding
                if inside:
                    window[k - start, in_plane[0], in_plane[1]] = row_of(k - self._before[0])
            filled = start + depth
            done = self._layer(window, sums, predict, batch, done, on_block)
            final = starts[layer + 1] - start
            rows = self._mean(sums[:, :final], start)
            first = max(0, self._before[0] - start)
            last = min(final, self._before[0] + self.shape[0] - start)
            if first < last:
                yield start + first - self._before[0], rows[:, first:last, in_plane[0], in_plane[1]]
            if final < depth:
                sums[:, :-final] = sums[:, final:]
                sums[:, -final:] = 0

    def _layer(
        self,
        window: FloatImage,
        sums: FloatImage,
        predict: Predict,
        batch: int,
        done: int,
        on_block: Callable[[int], None],
    ) -> int:
        """Add the predictions of all blocks of one layer to `sums`; return how many blocks are done in all."""
        _, height, width = self.block
        places = list(itertools.product(self._starts[1], self._starts[2]))
        weights = self._lines[0][:, None, None] * self._lines[1][:, None] * self._lines[2]
        while places:
            blocks = np.stack([window[:, y : y + height, x : x + width] for y, x in places[:batch]])[:, None]
            predictions = predict(blocks)
            for (y, x), prediction in zip(places, predictions, strict=False):
                sums[:, :, y : y + height, x : x + width] += weights * prediction
            places = places[len(predictions) :]
            done += len(predictions)
            on_block(done)
        return done

    def _mean(self, sums: FloatImage, start: int) -> FloatImage:
        k = self._totals[0][start : start + sums.shape[1], None, None]
        return sums / (k * self._totals[1][:, None] * self._totals[2])
