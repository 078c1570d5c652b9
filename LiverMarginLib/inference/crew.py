"""The images of a batch computed side by side, each by one worker of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

# Each image of a batch takes memory of its own; beyond this a machine's threads work within images as well.
_MOST = 4


class Crew:
    """Threads for functions that spend their time outside of Python.

    Parameters
    ----------
    threads : int
        Of the machine. There are as many workers, but at most four.
    """

    def __init__(self, threads: int) -> None:
        self.size = min(threads, _MOST)
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, work: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]], batch: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Call `work` with each image of `batch`, shape (1, ...), and return what it gives, stacked."""
        singles = [batch[n : n + 1] for n in range(len(batch))]
        if self.size == 1 or len(singles) == 1:
            return np.concatenate([work(image) for image in singles])
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.size, "livermargin-crew")
        return np.concatenate(list(self._pool.map(work, singles)))
