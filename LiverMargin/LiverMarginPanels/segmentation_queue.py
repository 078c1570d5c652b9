"""Several models on one volume, one after another, so that their results can be compared. Needs no window."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any

from LiverMarginLib.errors import InputError, LiverMarginError
from LiverMarginLib.events import Failure
from LiverMarginPanels.run_logic import Step
from LiverMarginPanels.segmentation_logic import Finding, SegmentationLogic, SegmentSettings
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command


class SegmentationQueue:
    """Runs the models of one request; it has the signals and methods of a `RunLogic`.

    A model that fails does not stop those after it; cancelling stops them all. What was found before stays.

    Parameters
    ----------
    logic : SegmentationLogic
    """

    def __init__(self, logic: SegmentationLogic) -> None:
        self.progressed: Signal[[Step]] = Signal()
        self.slice_shown = logic.slice_shown
        self.noticed = logic.noticed
        self.missed: Signal[[Failure]] = Signal()
        """One model has failed; there are results of others, or there may be."""

        self.succeeded: Signal[[tuple[Finding, ...]]] = Signal()
        self.failed: Signal[[Failure]] = Signal()
        """No model has found anything, and the scene is as it was."""

        self._logic = logic
        self._request: tuple[Any, Command, Any] | None = None
        self._waiting: deque[SegmentSettings] = deque()
        self._titles: tuple[str, ...] = ()
        self._found: list[Finding] = []
        logic.progressed.connect(self._progressed)
        logic.succeeded.connect(self._one_succeeded)
        logic.failed.connect(self._one_failed)

    @property
    def running(self) -> bool:
        """Whether a model runs, or waits for its turn."""
        return self._request is not None

    def start(self, volume: Any, settings: Sequence[SegmentSettings], command: Command, output: Any = None) -> None:
        """Start with the first model.

        Parameters
        ----------
        volume, command, output
            As for `SegmentationLogic.start`.
        settings : sequence of SegmentSettings
            One for each model.

        Raises
        ------
        LiverMarginError
            If volume or output cannot be used; nothing has happened then.
        """
        if self.running:
            raise InputError("A segmentation runs already; cancel it first.")
        self._request = volume, command, output
        self._waiting = deque(settings)
        self._titles = tuple(each.title for each in settings)
        self._found = []
        try:
            self._start_next()
        except LiverMarginError:
            self._request = None
            raise

    def cancel(self) -> None:
        """Stop the model that runs, and let none follow."""
        self._waiting.clear()
        self._logic.cancel()

    def abandon(self) -> None:
        """Stop at once and tell nobody: the module is being closed or reloaded."""
        self._waiting.clear()
        self._request = None
        self._logic.abandon()

    def _start_next(self) -> None:
        assert self._request is not None
        volume, command, output = self._request
        self._logic.start(volume, self._waiting.popleft(), command, output)

    def _progressed(self, step: Step) -> None:
        number = len(self._titles) - len(self._waiting)
        if len(self._titles) > 1:
            step = dataclasses.replace(step, title=f"{self._titles[number - 1]} ({number}/{len(self._titles)})")
        self.progressed.emit(step)

    def _one_succeeded(self, finding: Finding) -> None:
        if self.running:
            self._found.append(finding)
            self._go_on(None)

    def _one_failed(self, failure: Failure) -> None:
        if not self.running:
            return
        if failure.kind == "cancelled":  # also by closing the scene
            self._waiting.clear()
        elif len(self._titles) > 1:
            title = self._titles[len(self._titles) - len(self._waiting) - 1]
            failure = dataclasses.replace(failure, message=f"{title}: {failure.message}")
        self._go_on(failure)

    def _go_on(self, failure: Failure | None) -> None:
        if failure is not None and (self._waiting or self._found):
            self.missed.emit(failure)
        if self._waiting:
            try:
                self._start_next()
            except LiverMarginError as error:
                self._one_failed(Failure(error.kind, error.message, error.details))
            return
        self._request = None
        if self._found:
            self.succeeded.emit(tuple(self._found))
        elif failure is not None:
            self.failed.emit(failure)
