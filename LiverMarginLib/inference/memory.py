"""Going on when memory is short: smaller batches first, then the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import LiverMarginError, ResourceError, technical
from LiverMarginLib.events import Notice, OnEvent
from LiverMarginLib.inference.segmenter import Segmenter

Found = TypeVar("Found")

# What torch (CUDA, MPS, CPU allocators), ONNX Runtime and C++ say; neither has one exception for it.
_PHRASES = (
    "out of memory",
    "failed to allocate memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
    "not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any runtime means that memory was short."""
    if isinstance(error, LiverMarginError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in _PHRASES)


class FrugalPredictor:
    """Calls a `Segmenter` with batches that fit the memory, and says when it had to give way.

    Parameters
    ----------
    segmenter : Segmenter
    batch_size : int
        The largest batch.
    fallback : callable
        Makes the same network ready on the CPU; called at most once, and only if `segmenter` runs elsewhere.
    on_event : callable
        Told of every retreat by a `Notice`.
    unit : str
        What the network sees at a time, for messages: a "slice" or a "block".
    """

    def __init__(
        self,
        segmenter: Segmenter,
        batch_size: int,
        fallback: Callable[[], Segmenter],
        on_event: OnEvent,
        unit: str = "slice",
    ) -> None:
        self.segmenter = segmenter
        self.batch_size = batch_size
        self._fallback = fallback
        self._on_event = on_event
        self._unit = unit

    def predict(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute probabilities of at most `batch_size` images, or of fewer.

        Parameters
        ----------
        batch : ndarray of float32, shape (n, c, ...)

        Returns
        -------
        ndarray of float32, shape (m, classes, ...)
            Of the first ``m <= n`` images; `batch_size` has become `m` if memory was short.

        Raises
        ------
        ResourceError
            If not even one image fits into the memory of the CPU.
        """
        return self.attempt(lambda segmenter, most: segmenter.predict(batch[:most]))

    def attempt(self, work: Callable[[Segmenter, int], Found]) -> Found:
        """Call `work` with the segmenter and the batch size, and again with less of both while memory is short.

        Raises
        ------
        ResourceError
            As for `predict`.
        """
        while True:
            try:
                return work(self.segmenter, self.batch_size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                details = technical(error)
            # Outside the except block: the exception's traceback keeps the failed computation's tensors alive.
            self._retreat(details)

    def _retreat(self, details: str) -> None:
        if self.batch_size > 1:
            self.batch_size //= 2
            units = self._unit if self.batch_size == 1 else f"{self._unit}s"
            self._on_event(Notice(f"Memory is short; going on with {self.batch_size} {units} at a time."))
        elif self.segmenter.device != "cpu":
            self._on_event(
                Notice(
                    f"The memory of the device {self.segmenter.device} does not hold one {self._unit}; going on with "
                    "the CPU, which is slower."
                )
            )
            self.segmenter = self._fallback()
        else:
            raise ResourceError(
                f"There is not enough memory to segment a single {self._unit}; close other programs or use a larger "
                "machine.",
                details,
            )
