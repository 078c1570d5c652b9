"""Run the same work on many files at once, and stop early when something goes wrong or the user cancels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def for_each(work: Callable[[Item], Outcome], items: Iterable[Item], then: Callable[[Outcome], None]) -> None:
    """Do `work` on every item in threads, and `then` with each result here, in the items' order.

    Decoders and file reads release the interpreter's lock, so threads help. The first error, from either function,
    is raised as it is; work that has not begun by then is dropped.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for outcome in pool.map(work, items):
                then(outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
