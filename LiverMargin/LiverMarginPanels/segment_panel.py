"""The Segment panel: choose an image and a model, watch the slices fill in, correct the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib import mrml
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
from LiverMarginPanels.panel import RunPanel
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.run_logic import Step
from LiverMarginPanels.segmentation_logic import Finding, SegmentationLogic, SegmentSettings
from LiverMarginPanels.worker_client import Command

_RED_SLICE = "vtkMRMLSliceNodeRed"


class SegmentPanel(RunPanel[SegmentationLogic]):
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
        super().__init__(widget, logic, command, _("Segment"))
        self._other_python = other_python
        self._choices: list[ModelChoice] = []
        self._denoisers: list[ModelChoice] = []
        self._finding: Finding | None = None
        self._geometry: Any = None

        ui = self.ui
        connect(ui.modelBox, "currentIndexChanged(int)", self._model_chosen)
        connect(ui.denoiseBox, "currentIndexChanged(int)", self._denoiser_chosen)
        connect(ui.modelFolderButton, "clicked()", self._choose_model_folder)
        connect(ui.modelCardButton, "clicked()", self._show_card)
        connect(ui.show3DButton, "toggled(bool)", self._show_3d)
        connect(ui.editButton, "clicked()", self._edit)
        connect(ui.environmentButton, "clicked()", show_environment)
        logic.slice_shown.connect(self._follow)
        self.list_models()

    def _node_changed(self) -> None:
        node = self._node
        if node is None:
            return
        if node.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            node.inputVolume = next((v for v in volumes if not v.IsA("vtkMRMLLabelMapVolumeNode")), None)
        self.list_models()

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
        super().refresh()
        ui = self.ui
        ui.firstSliceBox.enabled = ui.lastSliceBox.enabled = not ui.allSlicesCheck.checked
        lacking = "" if self._other_python() else missing_runtime()
        ui.missingBox.visible = bool(lacking)
        ui.missingLabel.text = lacking

    def _start(self) -> None:
        node, choice = self._node, self._chosen()
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
        self._clear()
        self._node.model = str(choice.folder)
        self.list_models()

    def _show_card(self) -> None:
        choice = self._chosen()
        if choice is not None and choice.manifest is not None:
            card = model_card(choice.manifest)
            self._show_text(choice.title, choice.manifest.description, card)

    def _stage_text(self, step: Step) -> str:
        stages = {
            "denoising": _("Denoising ..."),
            "segmenting": _("Segmenting ..."),
            "post-processing": _("Tidying up ..."),
        }
        return stages.get(step.stage) or super()._stage_text(step)

    def _bar_text(self, step: Step) -> str:
        return _("%v of %m slices")

    def _follow(self, index: int) -> None:
        """Let the axial view show the slice that has just come."""
        red = slicer.mrmlScene.GetNodeByID(_RED_SLICE)
        if self._node is None or not self._node.followSlices or red is None:
            return
        grid = axial_view(self._geometry).geometry
        centre = grid.ijk_to_ras @ ((grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2, index, 1)
        red.JumpSliceByOffsetting(*(float(x) for x in centre[:3]))

    def _show(self, finding: Finding) -> None:
        self._finding = finding
        self.ui.resultLabel.text = _summary(finding)
        if self.ui.show3DButton.checked:
            self._show_3d(True)

    def _clear(self) -> None:
        super()._clear()
        self._finding = None

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
