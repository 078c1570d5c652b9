"""The Segment panel: choose an image and a model, watch the slices fill in, correct the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib import mrml
from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.models.card import model_card
from LiverMarginLib.volume import Modality, axial_view
from LiverMarginPanels.drop_area import DropArea
from LiverMarginPanels.image_loading import load_image
from LiverMarginPanels.model_choice import (
    ModelChoice,
    denoising_models,
    missing_runtime,
    own_model,
    proposed_model,
    segmentation_models,
)
from LiverMarginPanels.model_list import ModelList
from LiverMarginPanels.panel import RunPanel
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.run_logic import Step
from LiverMarginPanels.segmentation_logic import Finding, SegmentSettings
from LiverMarginPanels.segmentation_queue import SegmentationQueue
from LiverMarginPanels.text_window import show_text
from LiverMarginPanels.worker_client import Command

_RED_SLICE = "vtkMRMLSliceNodeRed"


class SegmentPanel(RunPanel[SegmentationQueue]):
    """Widgets of ``SegmentPanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
        The loaded ``.ui`` file.
    logic : SegmentationQueue
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
        logic: SegmentationQueue,
        command: Callable[[], Command],
        other_python: Callable[[], str],
        show_environment: Callable[[], None],
    ) -> None:
        super().__init__(widget, logic, command, _("Segment"))
        self._other_python = other_python
        self._denoisers: list[ModelChoice] = []
        self._choices: list[ModelChoice] = []
        self._modality = Modality.UNKNOWN
        self._findings: tuple[Finding, ...] = ()
        self._volume: Any = None

        ui = self.ui
        self._models = ModelList(ui.modelsList, self._models_ticked, self._show_model)
        self._drop_area = DropArea(_("Drop a DICOM folder or an image file here"), self.load)
        ui.dropHost.layout().addWidget(self._drop_area)
        connect(ui.denoiseBox, "currentIndexChanged(int)", self._denoiser_chosen)
        connect(ui.modelFolderButton, "clicked()", self._choose_model_folder)
        connect(ui.modelCardButton, "clicked()", self._show_card)
        connect(ui.show3DButton, "toggled(bool)", self._show_3d)
        connect(ui.editButton, "clicked()", self._edit)
        connect(ui.environmentButton, "clicked()", show_environment)
        connect(ui.advancedButton, "contentsCollapsed(bool)", lambda _collapsed: self.refresh())
        logic.slice_shown.connect(self._follow)
        logic.missed.connect(lambda failure: self._say(failure.message, failure.details))
        self.list_models()

    def _node_changed(self) -> None:
        node = self._node
        self._volume = None
        if node is None:
            return
        if node.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            node.inputVolume = next((v for v in volumes if not v.IsA("vtkMRMLLabelMapVolumeNode")), None)
        self.list_models()

    def opened(self) -> None:
        """A volume that was empty when it was chosen may have its voxels now."""
        self.refresh()

    def load(self, path: Path) -> None:
        """Load an image from the disk and make it the input."""
        if self._node is None:
            return
        self._clear()
        try:
            volume = load_image(path, slicer.mrmlScene, self._say)
        except LiverMarginError as error:
            self._say(error.message, error.details)
            return
        self._node.inputVolume = volume
        slicer.util.setSliceViewerLayers(background=volume, fit=True)

    def list_models(self) -> None:
        """Read the model folders again and keep the ticked models ticked."""
        node = self._node
        own, ticked = (list(node.ownModels), list(node.models)) if node is not None else ([], [])
        self._choices = segmentation_models([*own, *ticked])
        self._fill_models()
        self._list_denoisers()
        self.refresh()

    def _fill_models(self) -> None:
        """List the models; while the user has ticked none, the one for the image is ticked."""
        self._modality = self._image_modality()
        ticked = list(self._node.models) if self._node is not None else []
        self._models.fill(self._choices, ticked, proposed_model(self._choices, self._modality))
        self._show_model()

    def _image_modality(self) -> Modality:
        """What the user or the image says of itself."""
        node = self._node
        if node is None or node.inputVolume is None:
            return Modality.UNKNOWN
        return mrml.modality_of(node.inputVolume) if node.modality == "auto" else Modality(node.modality)

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        self._look_at_volume()
        if self._image_modality() is not self._modality:
            self._fill_models()
        super().refresh()
        ui = self.ui
        ui.firstSliceBox.enabled = ui.lastSliceBox.enabled = not ui.allSlicesCheck.checked
        lacking = self._lacking()
        ui.missingBox.visible = bool(lacking)
        ui.missingLabel.text = lacking

    def _start(self) -> None:
        node, denoiser = self._node, self.ui.denoiseBox.currentIndex
        settings = [
            SegmentSettings(
                model=str(choice.folder),
                segments=choice.manifest.labels,
                name=_("{volume} liver by {model}").format(volume=node.inputVolume.GetName(), model=choice.name),
                title=choice.name,
                modality=None if node.modality == "auto" else Modality(node.modality),
                device=node.device,
                precision=node.precision,
                slices=None if node.allSlices else (node.firstSlice, node.lastSlice),
                allow_mismatch=node.allowMismatch,
                denoise=str(self._denoisers[denoiser - 1].folder) if denoiser > 0 else None,
            )
            for choice in self._models.ticked()
        ]
        self.logic.start(node.inputVolume, settings, self._command(), node.outputSegmentation)

    def _why_not(self) -> str:
        node, choices = self._node, self._models.ticked()
        if node is None or node.inputVolume is None:
            return _("Load a CT or MR and choose it as the image.")
        if not choices:
            return _("Tick a model, or choose the folder of one.")
        if problem := next((choice.problem for choice in choices if choice.manifest is None), ""):
            return problem
        unfit = [choice for choice in choices if not choice.accepts(self._modality)]
        if unfit and not node.allowMismatch:
            sentence = _("{model} was not made for {modality}; untick it, or allow it under Advanced.")
            return sentence.format(model=unfit[0].name, modality=self._modality.value)
        if not node.allSlices and node.firstSlice > node.lastSlice:
            return _("The first slice lies above the last one.")
        return _("Install what is missing first.") if self._lacking() else ""

    def _lacking(self) -> str:
        """What Slicer's own Python lacks to run a model; nothing where another Python runs them."""
        return "" if self._other_python() else missing_runtime()

    def _look_at_volume(self) -> None:
        """Limit the slice range to the slices that the volume has."""
        node = self._node
        if node is None or node.inputVolume is self._volume:
            return
        try:
            last = axial_view(mrml.geometry_of(node.inputVolume)).geometry.shape[0] - 1
        except (LiverMarginError, AttributeError):  # none is chosen, or it has no voxels yet
            return
        self._volume = node.inputVolume
        if node.allSlices or not 0 < node.lastSlice <= last:
            node.firstSlice, node.lastSlice = 0, last

    def _models_ticked(self) -> None:
        if self._node is not None:
            self._node.models = [str(choice.folder) for choice in self._models.ticked()]
        self._show_model()
        self.refresh()

    def _show_model(self) -> None:
        """Say what the selected model is."""
        choice = self._models.selected()
        self.ui.modelCardButton.enabled = choice is not None and choice.manifest is not None
        text = ""
        if choice is not None:
            text = choice.manifest.description if choice.manifest is not None else choice.problem
        self.ui.modelLabel.text = text

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
        self._clear()
        if choice.manifest is None:
            self._say(choice.problem)
        else:
            self.add_model(choice.folder)

    def add_model(self, folder: Path) -> None:
        """List and tick the model in a folder; one that cannot be used is listed with the reason."""
        if self._node is not None:
            self._node.ownModels = [*dict.fromkeys([*self._node.ownModels, str(folder)])]
            self._node.models = [*dict.fromkeys([*self._node.models, str(folder)])]
        self.list_models()

    def _show_card(self) -> None:
        choice = self._models.selected()
        if choice is not None and choice.manifest is not None:
            show_text(choice.title, model_card(choice.manifest))

    def _stage_text(self, step: Step) -> str:
        stages = {
            "denoising": _("Denoising ..."),
            "localising": _("Looking for the liver ..."),
            "segmenting": _("Segmenting ..."),
            "post-processing": _("Tidying up ..."),
        }
        return stages.get(step.stage) or super()._stage_text(step)

    def _follow(self, index: int) -> None:
        """Let the axial view show the slice that has just come."""
        red = slicer.mrmlScene.GetNodeByID(_RED_SLICE)
        if self._node is None or not self._node.followSlices or red is None or self._node.inputVolume is None:
            return
        grid = axial_view(mrml.geometry_of(self._node.inputVolume)).geometry
        centre = grid.ijk_to_ras @ ((grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2, index, 1)
        red.JumpSliceByOffsetting(*(float(x) for x in centre[:3]))

    def _show(self, findings: tuple[Finding, ...]) -> None:
        self._findings = findings
        box = self.ui.resultSelector
        box.clear()
        for finding in findings:
            box.addItem(_title(finding))
        box.visible = len(findings) > 1
        self.ui.resultLabel.text = "\n\n".join(_summary(finding, len(findings) > 1) for finding in findings)
        if self.ui.show3DButton.checked:
            self._show_3d(True)
        self._look_at(findings[0])
        if self._node is not None:
            self._node.exportSegmentation = findings[-1].node

    def _look_at(self, finding: Finding) -> None:
        """Let the axial view show the middle of a result; the slice that came last lies above the liver."""
        red = slicer.mrmlScene.GetNodeByID(_RED_SLICE)
        if self._node is not None and self._node.followSlices and red is not None:
            centre = finding.node.GetSegmentCenterRAS(finding.segment_ids[0])
            if centre is not None:  # nothing was found
                red.JumpSliceByOffsetting(*centre)

    def _clear(self) -> None:
        super()._clear()
        self._findings = ()

    def _present(self) -> list[Finding]:
        """The results of the last run that the user has not deleted."""
        present = [finding for finding in self._findings if finding.node.GetScene() is not None]
        if not present:
            self.ui.resultBox.visible = False
        return present

    def _show_3d(self, shown: bool) -> None:
        for finding in self._present():
            if shown:
                finding.node.CreateClosedSurfaceRepresentation()
            finding.node.GetDisplayNode().SetVisibility3D(shown)

    def _edit(self) -> None:
        present, chosen = self._present(), max(0, self.ui.resultSelector.currentIndex)
        if chosen >= len(self._findings) or self._findings[chosen] not in present:
            return
        finding = self._findings[chosen]
        node = finding.node
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.SegmentEditorWidget.editor
        editor.setSegmentationNode(node)
        editor.setSourceVolumeNode(
            slicer.mrmlScene.GetNodeByID(node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()))
        )
        editor.setCurrentSegmentID(finding.segment_ids[0])


def _title(finding: Finding) -> str:
    return str(finding.values.get("model", finding.node.GetName()))


def _summary(finding: Finding, named: bool) -> str:
    """Volumes and slices that the worker measured, one line a segment."""
    lines = [_title(finding)] if named else []
    for segment in finding.values.get("segments", []):
        if not segment["voxels"]:
            lines.append(_("{name}: nothing found").format(name=segment["name"]))
        elif segment["volume_ml"] is None:
            lines.append(_("{name}: {slices} slices").format(name=segment["name"], slices=segment["slices"]))
        else:
            lines.append(
                _("{name}: {volume} ml in {slices} slices").format(
                    name=segment["name"], volume=f"{segment['volume_ml']:.1f}", slices=segment["slices"]
                )
            )
    confidence, worst = finding.values.get("confidence"), finding.values.get("least_sure_slice")
    if confidence is not None and worst is not None:
        lines.append(
            _("Confidence {mean}, lowest in slice {slice}: {lowest}").format(
                mean=f"{confidence:.2f}", slice=worst, lowest=f"{finding.values['slice_confidence'][worst]:.2f}"
            )
        )
    seconds = finding.values.get("seconds", {}).get("segment")
    if seconds is not None:
        device = finding.values.get("device", "")
        device = _("the CPU") if device == "cpu" else device
        sentence = _("{seconds} s on {device}")
        if (precision := finding.values.get("precision", "float32")) != "float32":
            sentence = _("{seconds} s on {device}, in {precision}")
        lines.append(sentence.format(seconds=f"{seconds:.1f}", device=device, precision=precision))
    return "\n".join(lines)
