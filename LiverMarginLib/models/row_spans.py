"""From where to where each row of a map matters: regions that are cheap to widen, to halve and to compute alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_Columns = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class RowSpans:
    """One span of columns for each row of a map.

    Parameters
    ----------
    left, right : ndarray of int, shape (h,)
        Each row's first column, and the one after its last; `left` is not below `right` where the span is empty.
    width : int
        Of the map.
    """

    left: _Columns
    right: _Columns
    width: int

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> RowSpans:
        """From the first to the last pixel of each row of a mask, shape (h, w)."""
        width = mask.shape[1]
        some = mask.any(axis=1)
        left = np.where(some, mask.argmax(axis=1), width)
        return cls(left, np.where(some, width - mask[:, ::-1].argmax(axis=1), 0), width)

    @classmethod
    def whole(cls, height: int, width: int) -> RowSpans:
        """All of every row."""
        return cls(np.zeros(height, np.intp), np.full(height, width, np.intp), width)

    @property
    def height(self) -> int:
        """How many rows there are."""
        return len(self.left)

    def mask(self) -> npt.NDArray[np.bool_]:
        """The pixels of all spans, shape (h, w)."""
        columns = np.arange(self.width)
        return (columns >= self.left[:, None]) & (columns < self.right[:, None])

    def over(self, first: int, last: int) -> tuple[int, int]:
        """The span that holds those of the rows `first` to `last` (not among them); (0, 0) if they are empty."""
        rows = slice(max(first, 0), last)
        left, right = self.left[rows].min(initial=self.width), self.right[rows].max(initial=0)
        return (int(left), int(right)) if left < right else (0, 0)

    def widened(self, by: int) -> RowSpans:
        """The spans of what a square of side ``2 * by + 1`` touches that is moved over these."""
        grown = [self.over(row - by, row + by + 1) for row in range(self.height)]
        return _clipped([(a - by, b + by) if a < b else (a, b) for a, b in grown], self.width)

    def halved(self) -> RowSpans:
        """The spans of a map of half the size whose pixels have a part in these."""
        pairs = [self.over(row, row + 2) for row in range(0, self.height, 2)]
        return _clipped([(a // 2, -(-b // 2)) for a, b in pairs], self.width // 2)


def _clipped(spans: list[tuple[int, int]], width: int) -> RowSpans:
    left, right = np.array(spans, np.intp).reshape(-1, 2).clip(0, width).T
    return RowSpans(np.where(left < right, left, width), np.where(left < right, right, 0), width)
