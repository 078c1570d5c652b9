"""The Segment panel: choose an image and a model, watch the slices fill in, correct the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib import mrml
from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import Failure
from LiverMarginLib.models.card import model_card
from LiverMarginLib.volume import Modality, axial_view
from LiverMarginPanels.model_choice import (
    ModelChoice,
    denoising_models,
    missing_runtime,
    own_model,
    segmentation_models,
)
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.segmentation_logic import Finding, SegmentationLogic, SegmentSettings, Step
from LiverMarginPanels.worker_client import Command

_RED_SLICE = "vtkMRMLSliceNodeRed"


class SegmentPanel:
    """Widgets of ``SegmentPanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
        The loaded ``.ui`` file.
    logic : SegmentationLogic
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    other_python : callable
        Returns the path of the Python that runs the worker in place of Slicer's own, or nothing.
    show_environment : callable
        Opens the Environment panel.
    """

    def __init__(
        self,
        widget: Any,
        logic: SegmentationLogic,
        command: Callable[[], Command],
        other_python: Callable[[], str],
        show_environment: Callable[[], None],
    ) -> None:
        self.ui = slicer.util.childWidgetVariables(widget)
        self.logic = logic
        self._command = command
        self._other_python = other_python
        self._node: Any = None
        self._connection: Any = None
        self._observer: Any = None
        self._choices: list[ModelChoice] = []
        self._denoisers: list[ModelChoice] = []
        self._finding: Finding | None = None
        self._details = ""
        self._geometry: Any = None

        ui = self.ui
        connect(ui.applyButton, "clicked()", self.apply_or_cancel)
        connect(ui.modelBox, "currentIndexChanged(int)", self._model_chosen)
        connect(ui.denoiseBox, "currentIndexChanged(int)", self._denoiser_chosen)
        connect(ui.modelFolderButton, "clicked()", self._choose_model_folder)
        connect(ui.modelCardButton, "clicked()", self._show_card)
        connect(ui.show3DButton, "toggled(bool)", self._show_3d)
        connect(ui.editButton, "clicked()", self._edit)
        connect(ui.detailsButton, "clicked()", self._show_details)
        connect(ui.environmentButton, "clicked()", show_environment)
        logic.progressed.connect(self._progressed)
        logic.slice_shown.connect(self._follow)
        logic.noticed.connect(self._noticed)
        logic.succeeded.connect(self._succeeded)
        logic.failed.connect(self._failed)
        for hidden in (ui.progressBar, ui.errorBox, ui.resultBox):
            hidden.visible = False
        self.list_models()

    def set_parameter_node(self, node: Any) -> None:
        """Show the state that `node` holds, and write changes to it; None lets go of it."""
        if self._node is not None:
            self._node.disconnectGui(self._connection)
            self._node.RemoveObserver(self._observer)
        self._node = node
        if node is None:
            return
        self._connection = node.connectGui(self.ui)
        self._observer = node.AddObserver("ModifiedEvent", lambda *_: self.refresh())
        if node.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            node.inputVolume = next((v for v in volumes if not v.IsA("vtkMRMLLabelMapVolumeNode")), None)
        self.list_models()
        self.refresh()

    def list_models(self) -> None:
        """Read the model folders again and keep the chosen model chosen."""
        chosen = self._node.model if self._node is not None else ""
        self._choices = segmentation_models([chosen])
        box = self.ui.modelBox
        was_blocked = box.blockSignals(True)
        box.clear()
        for choice in self._choices:
            box.addItem(choice.title)
        box.setCurrentIndex(self._index_of(chosen))
        box.blockSignals(was_blocked)
        self._list_denoisers()
        self._model_chosen(box.currentIndex)

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        ui, running = self.ui, self.logic.running
        reason = "" if running else self._why_not()
        ui.applyButton.text = _("Cancel") if running else _("Segment")
        ui.applyButton.enabled = not reason
        ui.applyButton.toolTip = reason or (_("Stop; the scene stays as it was") if running else _("Find the liver"))
        ui.settingsBox.enabled = not running
        ui.firstSliceBox.enabled = ui.lastSliceBox.enabled = not ui.allSlicesCheck.checked
        lacking = "" if self._other_python() else missing_runtime()
        ui.missingBox.visible = bool(lacking)
        ui.missingLabel.text = lacking
        if not running and not ui.progressBar.visible:
            ui.statusLabel.text = reason

    def apply_or_cancel(self) -> None:
        """What the big button does."""
        if self.logic.running:
            self.ui.statusLabel.text = _("Cancelling ...")
            self.ui.applyButton.enabled = False
            self.logic.cancel()
            return
        self._clear_messages()
        node, choice = self._node, self._chosen()
        try:
            volume, denoiser = node.inputVolume, self.ui.denoiseBox.currentIndex
            self._geometry = mrml.geometry_of(volume)
            settings = SegmentSettings(
                model=str(choice.folder),
                segments=choice.manifest.labels,
                name=_("{volume} liver by {model}").format(volume=volume.GetName(), model=choice.manifest.name),
                modality=None if node.modality == "auto" else Modality(node.modality),
                device=node.device,
                slices=None if node.allSlices else (node.firstSlice, node.lastSlice),
                allow_mismatch=node.allowMismatch,
                denoise=str(self._denoisers[denoiser - 1].folder) if denoiser > 0 else None,
            )
            self.logic.start(volume, settings, self._command(), node.outputSegmentation)
        except LiverMarginError as error:
            self._failed(Failure(error.kind, error.message, error.details))
        self.refresh()

    def cleanup(self) -> None:
        """Let go of everything; the panel is not used any more."""
        self.set_parameter_node(None)
        self.logic.abandon()

    def _index_of(self, folder: str) -> int:
        folders = [str(choice.folder) for choice in self._choices]
        if folder in folders:
            return folders.index(folder)
        return next((n for n, choice in enumerate(self._choices) if choice.manifest is not None), -1)

    def _chosen(self) -> ModelChoice | None:
        index = self.ui.modelBox.currentIndex
        return self._choices[index] if 0 <= index < len(self._choices) else None

    def _why_not(self) -> str:
        node, choice = self._node, self._chosen()
        if node is None or node.inputVolume is None:
            return _("Load a CT or MR and choose it as the input volume.")
        if choice is None:
            return _("No model was found; choose the folder of one.")
        if choice.manifest is None:
            return choice.problem
        if not node.allSlices and node.firstSlice > node.lastSlice:
            return _("The first slice lies above the last one.")
        return ""

    def _model_chosen(self, index: int) -> None:
        choice = self._chosen()
        self.ui.modelCardButton.enabled = choice is not None and choice.manifest is not None
        text = _("No model was found; choose the folder of one.")
        if choice is not None:
            text = choice.manifest.description if choice.manifest is not None else choice.problem
        self.ui.modelLabel.text = text
        if self._node is not None and choice is not None and self._node.model != str(choice.folder):
            self._node.model = str(choice.folder)
        self.refresh()

    def _list_denoisers(self) -> None:
        chosen = self._node.denoiser if self._node is not None else ""
        self._denoisers = denoising_models()
        folders = ["", *(str(choice.folder) for choice in self._denoisers)]
        box = self.ui.denoiseBox
        was_blocked = box.blockSignals(True)
        box.clear()
        for title in (_("no"), *(choice.title for choice in self._denoisers)):
            box.addItem(title)
        box.setCurrentIndex(folders.index(chosen) if chosen in folders else 0)
        box.blockSignals(was_blocked)

    def _denoiser_chosen(self, index: int) -> None:
        if self._node is not None:
            self._node.denoiser = str(self._denoisers[index - 1].folder) if index > 0 else ""

    def _choose_model_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of a model"))
        if not folder:
            return
        choice = own_model(Path(folder))
        if choice.manifest is None:
            self._failed(Failure("bundle", choice.problem))
            return
        self._clear_messages()
        self._node.model = str(choice.folder)
        self.list_models()

    def _show_card(self) -> None:
        choice = self._chosen()
        if choice is not None and choice.manifest is not None:
            card = model_card(choice.manifest)
            self._show_text(choice.title, choice.manifest.description, card)

    def _progressed(self, step: Step) -> None:
        bar = self.ui.progressBar
        bar.visible = True
        names = {
            "starting": _("Starting ..."),
            "read": _("Reading ..."),
            "denoising": _("Denoising ..."),
            "segmenting": _("Segmenting ..."),
            "post-processing": _("Tidying up ..."),
        }
        self.ui.statusLabel.text = (
            names.get(step.stage, step.stage) if step.remaining is None else _time_left(step.remaining)
        )
        if step.stage not in ("denoising", "segmenting"):
            bar.setRange(0, 0)  # busy
            return
        bar.setRange(0, step.total)
        bar.setValue(step.done)
        bar.setFormat(_("%v of %m slices"))

    def _follow(self, index: int) -> None:
        """Let the axial view show the slice that has just come."""
        red = slicer.mrmlScene.GetNodeByID(_RED_SLICE)
        if self._node is None or not self._node.followSlices or red is None:
            return
        grid = axial_view(self._geometry).geometry
        centre = grid.ijk_to_ras @ ((grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2, index, 1)
        red.JumpSliceByOffsetting(*(float(x) for x in centre[:3]))

    def _noticed(self, message: str) -> None:
        self._say([*self.ui.errorLabel.text.splitlines(), message], _("Please note"), "")

    def _succeeded(self, finding: Finding) -> None:
        self._finding = finding
        self.ui.resultLabel.text = _summary(finding)
        self.ui.resultBox.visible = True
        self._idle()
        if self.ui.show3DButton.checked:
            self._show_3d(True)

    def _failed(self, failure: Failure) -> None:
        self._idle()
        if failure.kind == "cancelled":
            self.ui.statusLabel.text = failure.message
        else:
            self._say([failure.message], _("It did not work"), failure.details)

    def _idle(self) -> None:
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = ""
        self.refresh()

    def _clear_messages(self) -> None:
        self.ui.errorBox.visible = False
        self.ui.errorLabel.text = ""
        self.ui.resultBox.visible = False
        self._finding = None

    def _say(self, lines: list[str], title: str, details: str) -> None:
        self._details = details
        self.ui.errorBox.title = title
        self.ui.errorLabel.text = "\n".join(dict.fromkeys(lines))
        self.ui.detailsButton.visible = bool(details)
        self.ui.errorBox.visible = True

    def _show_details(self) -> None:
        self._show_text(self.ui.errorBox.title, self.ui.errorLabel.text, self._details)

    def _show_text(self, title: str, text: str, details: str) -> None:
        """A window that does not block; Slicer's own dialogs would."""
        box = qt.QMessageBox(qt.QMessageBox.NoIcon, title, text, qt.QMessageBox.Ok, slicer.util.mainWindow())
        box.setDetailedText(details)
        box.setModal(False)
        self._text_window = box
        box.show()

    def _present(self) -> Any:
        """The segmentation of the last run, if the user has not deleted it."""
        if self._finding is None or self._finding.node.GetScene() is None:
            self.ui.resultBox.visible = False
            return None
        return self._finding.node

    def _show_3d(self, shown: bool) -> None:
        node = self._present()
        if node is None:
            return
        if shown:
            node.CreateClosedSurfaceRepresentation()
        node.GetDisplayNode().SetVisibility3D(shown)

    def _edit(self) -> None:
        node = self._present()
        if node is None:
            return
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.SegmentEditorWidget.editor
        editor.setSegmentationNode(node)
        editor.setSourceVolumeNode(
            slicer.mrmlScene.GetNodeByID(node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()))
        )
        editor.setCurrentSegmentID(self._finding.segment_ids[0])


def _time_left(seconds: float) -> str:
    if seconds < 90:
        return _("About {seconds} s left").format(seconds=max(1, math.ceil(seconds)))
    return _("About {minutes} min left").format(minutes=round(seconds / 60))


def _summary(finding: Finding) -> str:
    """Volumes and slices that the worker measured, one line a segment."""
    lines = []
    for segment in finding.values.get("segments", []):
        if not segment["voxels"]:
            lines.append(_("{name}: nothing found").format(name=segment["name"]))
        else:
            lines.append(
                _("{name}: {volume} ml in {slices} slices").format(
                    name=segment["name"], volume=f"{segment['volume_ml']:.1f}", slices=segment["slices"]
                )
            )
    seconds = finding.values.get("seconds", {}).get("segment")
    if seconds is not None:
        device = finding.values.get("device", "")
        lines.append(_("{seconds} s on {device}").format(seconds=f"{seconds:.1f}", device=device))
    return "\n".join(lines)
