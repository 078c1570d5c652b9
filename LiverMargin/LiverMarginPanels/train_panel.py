"""The Train panel: check a data set, train on it, watch the curves, and use the model that comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import Failure, Metric
from LiverMarginLib.models.store import BundleEntry, list_bundles, user_model_folder
from LiverMarginLib.training.profiles import PROFILES
from LiverMarginPanels import training_curves
from LiverMarginPanels.panel import RunPanel
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.run_logic import Step
from LiverMarginPanels.train_logic import (
    CheckLogic,
    DatasetReport,
    Trained,
    TrainLogic,
    TrainSettings,
    missing_for_training,
)
from LiverMarginPanels.training_curves import TrainingCurves
from LiverMarginPanels.worker_client import Command, WorkerClient

_SHOWN_PROBLEMS = 5
_ARCHITECTURES = {"detectron2": "mask-rcnn"}  # of networks whose models bear another name


class TrainPanel(RunPanel[TrainLogic]):
    """Widgets of ``TrainPanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
    new_client : callable
        Makes a `WorkerClient`; the check and the training have one each.
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    other_python : callable
        Returns the path of the Python that runs the worker in place of Slicer's own, or nothing.
    trained : callable
        Called with the folder of a model that has come out.
    """

    def __init__(
        self,
        widget: Any,
        new_client: Callable[[], WorkerClient],
        command: Callable[[], Command],
        other_python: Callable[[], str],
        trained: Callable[[Path], None],
    ) -> None:
        super().__init__(widget, TrainLogic(new_client()), command, _("Train"))
        self._other_python = other_python
        self._trained = trained
        self._curves: TrainingCurves | None = None
        self._layout_before: int | None = None
        self._stopping = False
        self._bundles: list[BundleEntry] = []
        self._check = CheckLogic(new_client())
        ui = self.ui
        connect(ui.checkButton, "clicked()", self._check_or_cancel)
        connect(ui.profileBox, "currentIndexChanged(int)", self._profile_chosen)
        connect(ui.initialBox, "currentIndexChanged(int)", self._initial_chosen)
        connect(ui.curvesButton, "toggled(bool)", self._show_curves)
        self.logic.measured.connect(self._measured)
        self._check.progressed.connect(self._progressed)
        self._check.succeeded.connect(self._checked)
        self._check.failed.connect(self._failed)
        self.refresh()

    def cleanup(self) -> None:
        """Let go of everything; the panel is not used any more."""
        self.exit()
        self._check.abandon()
        super().cleanup()

    def exit(self) -> None:
        """The module is hidden: give the user's layout back."""
        self.ui.curvesButton.checked = False
        self._show_curves(False)

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        self._list_profiles()
        self._list_initial()
        settings = None if self._node is None else self._settings()
        self._title = _("Resume") if settings is not None and settings.resumes else _("Train")
        super().refresh()
        ui, running, checking = self.ui, self.logic.running, self._check.running
        ui.settingsBox.enabled = not running and not checking
        ui.checkButton.text = _("Cancel the check") if checking else _("Check the data set")
        has_data = settings is not None and settings.data != ""
        ui.checkButton.enabled = checking or (has_data and not running)
        ui.withPhantomsCheck.enabled = has_data
        ui.phantomsBox.enabled = settings is None or settings.makes_phantoms
        ui.dataWeightBox.enabled = settings is not None and settings.weighs_data
        ui.curvesButton.enabled = self._curves is not None and self._curves.in_scene
        if running:
            ui.applyButton.text = _("Stop at once") if self._stopping else _("Stop")

    def run_or_cancel(self) -> None:
        """What the big button does: a first click lets a training save itself, a second one ends it."""
        if self.logic.running and not self._stopping:
            self._stopping = True
            self.logic.stop()
            self.ui.statusLabel.text = _("Stopping after this step, and saving ...")
            self.refresh()
            return
        self._stopping = False
        super().run_or_cancel()

    def _node_changed(self) -> None:
        if self._node is None:
            self._curves = None
        else:
            self._bundles = [entry for entry in list_bundles() if entry.manifest is not None]

    def _why_not(self) -> str:
        if self._check.running:
            return _("The data set is being checked.")
        if self._node is None or not self._settings().name:
            return _("Name the model.")
        return "" if self._other_python() else missing_for_training()

    def _start(self) -> None:
        settings = self._settings()
        score = {"dncnn-sr": _("PSNR (dB)"), "unet3d": _("Dice"), "medformer": _("Dice")}.get(settings.model, _("IoU"))
        self._curves = TrainingCurves(slicer.mrmlScene, score)
        self.logic.start(settings, self._command())
        self.ui.curvesButton.checked = True
        self._show_curves(True)

    def _settings(self) -> TrainSettings:
        node = self._node
        return TrainSettings(
            folder=user_model_folder() if str(node.trainFolder) in ("", ".") else Path(node.trainFolder),
            name=node.trainName.strip(),
            data=self._data(),
            label=node.trainLabel.strip(),
            with_phantoms=node.trainWithPhantoms,
            phantoms=node.trainPhantoms,
            data_weight=node.trainDataWeight,
            model=node.trainModel,
            profile=self._profile(),
            modality=node.trainModality,
            device=node.trainDevice,
            epochs=node.trainEpochs,
            initial=node.trainInitial if node.trainInitial in self._initial_folders() else "",
        )

    def _data(self) -> str:
        path = str(self._node.trainData)
        return "" if path == "." else path

    def _profile(self) -> str:
        names = list(PROFILES[self._node.trainModel])
        return self._node.trainProfile if self._node.trainProfile in names else names[0]

    def _list_profiles(self) -> None:
        """Offer the profiles of the chosen network."""
        if self._node is not None:
            names = list(PROFILES[self._node.trainModel])
            _fill(self.ui.profileBox, names, names.index(self._profile()))
            self.ui.profileLabel.text = _profile_text(self._profile())

    def _list_initial(self) -> None:
        """Offer the models that the chosen network can start from."""
        if self._node is not None:
            folders = ["", *self._initial_folders()]
            names = [_("random"), *(entry.name for entry in self._initial_bundles())]
            chosen = self._node.trainInitial
            _fill(self.ui.initialBox, names, folders.index(chosen) if chosen in folders else 0)

    def _initial_bundles(self) -> list[BundleEntry]:
        architecture = _ARCHITECTURES.get(self._node.trainModel, self._node.trainModel)
        return [entry for entry in self._bundles if entry.manifest.architecture == architecture]

    def _initial_folders(self) -> list[str]:
        return [str(entry.folder) for entry in self._initial_bundles()]

    def _initial_chosen(self, index: int) -> None:
        if self._node is not None:
            self._node.trainInitial = self._initial_folders()[index - 1] if index > 0 else ""

    def _profile_chosen(self, index: int) -> None:
        if self._node is not None and index >= 0:
            self._node.trainProfile = list(PROFILES[self._node.trainModel])[index]

    def _check_or_cancel(self) -> None:
        if self._check.running:
            self._check.cancel()
            return
        self._clear()
        try:
            self._check.start(self._data(), self._node.trainLabel.strip(), self._command())
        except LiverMarginError as error:
            self._failed(Failure(error.kind, error.message, error.details))
        self.refresh()

    def _checked(self, report: DatasetReport) -> None:
        self._idle()
        found = _("{cases} cases. To look at: {problems}.") if report.problems else _("{cases} cases, nothing odd.")
        lines = [found.format(cases=report.cases, problems=len(report.problems))]
        lines += report.problems[:_SHOWN_PROBLEMS]
        self._say("\n".join(lines), report.text)

    def _stage_text(self, step: Step) -> str:
        stages = {
            "phantoms": _("Making synthetic patients ..."),
            "check": _("Reading the data set ..."),
            "duplicates": _("Looking for doubles ..."),
            "train": _("Training ..."),
            "validate": _("Validating ..."),
        }
        return stages.get(step.stage) or super()._stage_text(step)

    def _bar_text(self, step: Step) -> str:
        return _("step %v of %m") if step.stage == "train" else super()._bar_text(step)

    def _progressed(self, step: Step) -> None:
        super()._progressed(step)
        if step.message and step.stage == "train":
            self.ui.statusLabel.text = f"{self.ui.statusLabel.text} ({step.message})"

    def _measured(self, point: Metric) -> None:
        if self._curves is not None:
            self._curves.add(point)

    def _show_curves(self, shown: bool) -> None:
        if shown and self._curves is not None and self._curves.in_scene:
            before = self._curves.show()
            self._layout_before = before if self._layout_before is None else self._layout_before
        elif not shown and self._layout_before is not None:
            training_curves.hide(self._layout_before)
            self._layout_before = None

    def _show(self, found: Trained) -> None:
        self._stopping = False
        endings = {"early stopping": _("it got no better"), "stopped": _("stopped; Resume goes on with it")}
        ending = endings.get(found.ending, found.ending)
        lines = [_("Epochs so far: {epochs} ({ending})").format(epochs=found.epochs, ending=ending)]
        if found.best_epoch is not None:
            scores = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.scores.items())
            lines.append(_("Best epoch {epoch}: {scores}").format(epoch=found.best_epoch, scores=scores))
        if found.bundle is None:
            lines.append(_("There is no model yet; resume the training until its first validation."))
        else:
            lines.append(_("The model {name} is now in the Segment panel.").format(name=found.bundle.name))
            self._trained(found.bundle)
        self.ui.resultLabel.text = "\n".join(lines)

    def _failed(self, failure: Failure) -> None:
        self._stopping = False
        super()._failed(failure)


def _fill(box: Any, names: Sequence[str], chosen: int) -> None:
    """Show names in a QComboBox without telling of it."""
    was_blocked = box.blockSignals(True)
    box.clear()
    for name in names:
        box.addItem(name)
    box.setCurrentIndex(chosen)
    box.blockSignals(was_blocked)


def _profile_text(profile: str) -> str:
    """What a training of this profile is; nothing for one that is not known here."""
    texts = {
        "paper": _("As published, for comparison"),
        "robust": _("For data of your own: many variations of each image; a GPU is advised"),
        "robust-x2": _("As robust, and doubles the resolution"),
        "small": _("To try it out: minutes to hours on a computer without a GPU"),
        "small-x2": _("As small, and doubles the resolution"),
        "small-112": _("As small, with finer masks"),
        "tiny": _("To see that it works; learns next to nothing"),
        "mlf_compat": _("As published by liver-ct-segmentation, for comparison"),
        "lits": _("As published for LiTS; for data of your own, on a large GPU"),
        "crop_small": _("To try it out: learns lesions within the liver that another model finds"),
        "spacing_aware": _("For data of your own: works in millimetres, whatever the spacing; needs a GPU"),
        "few_shot": _("For a handful of patients; needs a GPU"),
        "few_shot_small": _("For a handful of patients, on a computer without a GPU"),
    }
    return texts.get(profile, "")
