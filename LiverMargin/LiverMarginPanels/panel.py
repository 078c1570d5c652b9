"""What every panel does that starts runs: one button, progress, messages, and the state that the scene holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import Failure
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.run_logic import Step
from LiverMarginPanels.text_window import show_text
from LiverMarginPanels.worker_client import Command

Logic = TypeVar("Logic")

# Widgets of a path, of all panels.
_PATH_EDITS = ("folderEdit", "keepEdit", "dataEdit")
# Boxes that Slicer's connector fills with the values of the parameter node, which are no words for a reader.
_CHOICE_BOXES = ("deviceBox", "precisionBox", "modalityBox", "networkBox")


class RunPanel(Generic[Logic]):
    """Base of the panels.

    A subclass says why a run cannot start (`_why_not`), starts one (`_start`) and shows what it found (`_show`). Its
    ``.ui`` file has the widgets ``settingsBox``, ``applyButton``, ``progressBar``, ``statusLabel``, ``messageLabel``,
    ``detailsButton`` and ``resultBox``.

    Parameters
    ----------
    widget : qMRMLWidget
        The loaded ``.ui`` file.
    logic : RunLogic, or what has its signals and methods
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    title : str
        What the button says while nothing runs.
    """

    def __init__(self, widget: Any, logic: Logic, command: Callable[[], Command], title: str) -> None:
        self.ui = slicer.util.childWidgetVariables(widget)
        self.logic = logic
        self._command = command
        self._title = title
        self._node: Any = None
        self._connection: Any = None
        self._observer: Any = None
        self._details: list[str] = []
        ui = self.ui
        connect(ui.applyButton, "clicked()", self.run_or_cancel)
        connect(ui.detailsButton, "clicked()", self._show_details)
        for edit in (getattr(ui, name) for name in _PATH_EDITS if hasattr(ui, name)):
            connect(edit, "currentPathChanged(QString)", partial(_empty_path, edit))
        logic.progressed.connect(self._progressed)
        logic.noticed.connect(self._say)
        logic.succeeded.connect(self._succeeded)
        logic.failed.connect(self._failed)
        ui.progressBar.visible = False
        self._clear()

    def set_parameter_node(self, node: Any) -> None:
        """Show the state that `node` holds, and write changes to it; None lets go of it."""
        if self._node is not None:
            self._node.disconnectGui(self._connection)
            self._node.RemoveObserver(self._observer)
        self._node = node
        if node is not None:
            self._connection = node.connectGui(self.ui)
            for name in _CHOICE_BOXES:
                if hasattr(self.ui, name):
                    _title_choices(getattr(self.ui, name))
            self._observer = node.AddObserver("ModifiedEvent", lambda *_: self.refresh())
        self._node_changed()
        if node is None:
            self._clear()
        else:
            self.refresh()

    def cleanup(self) -> None:
        """Let go of everything; the panel is not used any more."""
        self.set_parameter_node(None)
        self.logic.abandon()

    def enter(self) -> None:
        """The module is shown."""

    def exit(self) -> None:
        """The module is hidden; a run goes on."""

    def opened(self) -> None:
        """The panel comes to the front: propose what can be told from the scene."""

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        ui, running = self.ui, self.logic.running
        reason = "" if running else self._why_not()
        ui.settingsBox.enabled = not running
        ui.applyButton.text = _("Cancel") if running else self._title
        ui.applyButton.enabled = not reason
        ui.applyButton.toolTip = reason
        if not running:
            ui.statusLabel.text = reason

    def run_or_cancel(self) -> None:
        """What the big button does."""
        if self.logic.running:
            self.ui.statusLabel.text = _("Cancelling ...")
            self.ui.applyButton.enabled = False
            self.logic.cancel()
            return
        self._clear()
        try:
            self._start()
        except LiverMarginError as error:
            self._failed(Failure(error.kind, error.message, error.details))
        self.refresh()

    def _node_changed(self) -> None:
        """Another parameter node, or none, is there now: read what no connector of Slicer's can hold."""

    def _why_not(self) -> str:
        """Why nothing can be started now, as one sentence; empty if it can."""
        raise NotImplementedError

    def _start(self) -> None:
        """Start a run; may raise `LiverMarginError`."""
        raise NotImplementedError

    def _show(self, found: Any) -> None:
        """Show what a run found, in ``resultBox``."""
        raise NotImplementedError

    def _stage_text(self, step: Step) -> str:
        """What is said of a stage whose end cannot be told yet."""
        stages = {
            "starting": _("Starting ..."),
            "read": _("Reading ..."),
            "write": _("Writing ..."),
            "compare": _("Comparing ..."),
            "report": _("Drawing the report ..."),
        }
        return stages.get(step.stage, step.stage)

    def _bar_text(self, step: Step) -> str:
        """What the progress bar says; ``%v`` are done of ``%m``."""
        return _("%v of %m")

    def _progressed(self, step: Step) -> None:
        bar = self.ui.progressBar
        bar.visible = True
        text = self._stage_text(step) if step.remaining is None else time_left(step.remaining)
        self.ui.statusLabel.text = f"{step.title}: {text}" if step.title else text
        if step.total <= 1:
            bar.setRange(0, 0)  # busy
            return
        bar.setRange(0, step.total)
        bar.setValue(step.done)
        bar.setFormat(self._bar_text(step))

    def _succeeded(self, found: Any) -> None:
        self._idle()
        self.ui.resultBox.visible = True
        self._show(found)

    def _failed(self, failure: Failure) -> None:
        self._idle()
        self._say(failure.message, failure.details)

    def _idle(self) -> None:
        self.ui.progressBar.visible = False
        self.refresh()

    def _clear(self) -> None:
        """Forget what the last run said."""
        self._details = []
        self.ui.messageLabel.text = ""
        for widget in (self.ui.messageLabel, self.ui.detailsButton, self.ui.resultBox):
            widget.visible = False

    def _say(self, message: str, details: str = "") -> None:
        """Add a line to the messages."""
        lines = [*self.ui.messageLabel.text.splitlines(), message]
        self.ui.messageLabel.text = "\n".join(dict.fromkeys(lines))
        self.ui.messageLabel.visible = True
        if details:
            self._details.append(details)
            self.ui.detailsButton.visible = True

    def _show_details(self) -> None:
        show_text(self._title, "\n\n".join(self._details))


def time_left(seconds: float) -> str:
    """Say how long a run still takes."""
    if seconds < 90:
        return _("About {seconds} s left").format(seconds=max(1, math.ceil(seconds)))
    return _("About {minutes} min left").format(minutes=round(seconds / 60))


def _empty_path(edit: Any, path: str) -> None:
    """Show nothing for an empty pathlib.Path, which Slicer's connector writes as a dot."""
    if path == ".":
        edit.setCurrentPath("")


def _title_choices(box: Any) -> None:
    """Say in words what a box offers; the connector goes by the number of a line, not by its text."""
    titles = {
        "auto": _("automatic"),
        "cpu": _("CPU"),
        "cuda": _("GPU (NVIDIA)"),
        "mps": _("GPU (Apple)"),
        "single": _("single"),
        "half": _("half"),
        "unet": _("U-Net, slice by slice"),
        "unet3d": _("U-Net in 3-D"),
        "medformer": _("MedFormer in 3-D"),
        "dncnn-sr": _("DnCNN, removes noise"),
        "detectron2": _("Mask R-CNN (Detectron2)"),
    }
    for n in range(box.count):
        box.setItemText(n, titles.get(box.itemText(n), box.itemText(n)))
