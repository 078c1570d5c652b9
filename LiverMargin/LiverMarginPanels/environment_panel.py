"""The Environment panel: what is installed, what is missing and how to get it, and where the models lie."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import Failure, Result
from LiverMarginLib.jobs.diagnose import DiagnoseJob
from LiverMarginLib.models.store import user_model_folder
from LiverMarginPanels import tables
from LiverMarginPanels.detectron_install import LAST_LINES, DetectronInstall
from LiverMarginPanels.environment_report import ModelOnDisk, diagnosis_lines, models_on_disk
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.worker_client import Command, WorkerClient
from LiverMarginPanels.worker_command import SETTING

TORCH = ">=2.4"
_SLICERS_OWN = ["SimpleITK", "numpy", "scipy", "torch"]  # pip must not replace these builds


class EnvironmentPanel:
    """Widgets of ``EnvironmentPanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
    client : WorkerClient
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    requirements : str
        Path of ``requirements.txt``.
    detectron : DetectronInstall
    changed : callable
        Called after something was installed, removed or chosen.
    """

    def __init__(
        self,
        widget: Any,
        client: WorkerClient,
        command: Callable[[], Command],
        requirements: str,
        detectron: DetectronInstall,
        changed: Callable[[], None],
    ) -> None:
        self.ui = slicer.util.childWidgetVariables(widget)
        self._client = client
        self._command = command
        self._requirements = requirements
        self._detectron = detectron
        self._changed = changed
        self._models: list[ModelOnDisk] = []

        ui = self.ui
        self._install_tips = [(button, button.toolTip) for button in (ui.installButton, ui.torchButton)]
        ui.pythonEdit.setCurrentPath(slicer.util.settingsValue(SETTING, ""))
        connect(ui.checkButton, "clicked()", self.check)
        connect(ui.installButton, "clicked()", self._install)
        connect(ui.torchButton, "clicked()", self._install_torch)
        connect(ui.detectronButton, "clicked()", self._install_detectron)
        connect(ui.pythonEdit, "currentPathChanged(QString)", self._python_chosen)
        connect(ui.openFolderButton, "clicked()", self._open_folder)
        connect(ui.removeButton, "clicked()", self._remove_model)
        connect(ui.modelsTable, "itemSelectionChanged()", self._model_selected)
        client.finished.connect(self._checked)
        detectron.said.connect(self._say)
        detectron.finished.connect(self._detectron_installed)
        self._say(_("Check tells what the Python that runs the models has, and what it lacks."))
        ui.folderLabel.text = str(user_model_folder())
        self.list_models()
        self._refresh()

    def set_parameter_node(self, node: Any) -> None:
        """This panel has no state in the scene; what it shows may have changed on the disk, though."""
        if node is not None:
            self.list_models()

    def cleanup(self) -> None:
        """Let go of everything; the panel is not used any more."""
        self._client.abandon()
        self._detectron.abandon()

    def enter(self) -> None:
        """The module is shown."""

    def opened(self) -> None:
        """The panel comes to the front."""

    def exit(self) -> None:
        """The module is hidden; a check goes on."""

    def check(self) -> None:
        """Look at the worker's Python, in a worker."""
        self._say("")
        try:
            self._client.start(self._command(), DiagnoseJob())
        except LiverMarginError as error:
            self._say(error.message)
        self._refresh()

    def list_models(self) -> None:
        """Read the model folders again."""
        self._models = models_on_disk()
        tables.fill(
            self.ui.modelsTable,
            (_("Model"), _("MB"), _("Folder")),
            [
                (model.name, round(model.megabytes, 1), model.problem or str(model.folder.parent))
                for model in self._models
            ],
        )
        self._model_selected()

    def _refresh(self) -> None:
        ui, running = self.ui, self._client.running or self._detectron.running
        other = bool(ui.pythonEdit.currentPath)
        ui.checkButton.enabled = not running
        ui.checkButton.text = _("Checking ...") if self._client.running else _("Check")
        ui.detectronButton.enabled = not running
        ui.detectronButton.text = _("Installing ...") if self._detectron.running else _("Install Detectron2")
        ui.installButton.enabled = ui.torchButton.enabled = not running and not other
        why = _("Packages of another Python are installed with that Python's own pip.") if other else ""
        for button, tip in self._install_tips:
            button.toolTip = why or tip

    def _checked(self, outcome: Result | Failure) -> None:
        self._refresh()
        if isinstance(outcome, Failure):
            self._say("\n".join(part for part in (outcome.message, outcome.details) if part))
            return
        lines = diagnosis_lines(outcome.values)
        tables.fill(
            self.ui.packagesTable,
            ("", _("What"), _("State"), _("For")),
            [("" if line.good else "\N{BALLOT X}", line.name, line.state, line.purpose) for line in lines],
        )
        problems = outcome.values.get("problems", ())
        self._say("\n".join(problems) or _("Everything that segmenting needs is there."))

    def _install(self) -> None:
        try:
            from slicer import packaging  # no part of slicer until it is imported
        except ImportError:
            self._say(_("Packages are installed from here in 3D Slicer 5.12 and newer; use pip_install in older ones."))
            return
        self._try(
            lambda: packaging.pip_ensure(
                packaging.load_requirements(self._requirements),
                skip_packages=_SLICERS_OWN,
                requester="LiverMargin",
            )
        )

    def _install_torch(self) -> None:
        try:
            import PyTorchUtils
        except ImportError:
            self._say(_("Install the extension PyTorch with the Extensions Manager and restart 3D Slicer first."))
            return
        self._try(
            lambda: PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH)
        )

    def _install_detectron(self) -> None:
        """Into Slicer's Python or the other one, whichever runs the models."""
        question = _("Download Detectron2 and install it without its compiled part? It takes some minutes.")
        if not slicer.util.confirmOkCancelDisplay(question):
            return
        try:
            self._detectron.start(self._command())
        except LiverMarginError as error:
            self._say(error.message)
        self._refresh()

    def _detectron_installed(self, problem: str) -> None:
        self._refresh()
        if problem:
            self._say("\n".join([_("The installation did not end well; try again."), problem]))
        else:
            self.check()
        self._changed()

    def _try(self, install: Callable[[], object]) -> None:
        """Install something; what pip said last is shown when it fails."""
        self._say("")
        try:
            install()
        except Exception as error:  # pip and its wrappers raise anything; the panel goes on
            lines = str(error).splitlines() or [type(error).__name__]
            self._say("\n".join([_("The installation did not end well; try again."), *lines[-LAST_LINES:]]))
        else:
            self.check()
        self._changed()

    def _python_chosen(self, path: str) -> None:
        qt.QSettings().setValue(SETTING, path)
        self._refresh()
        self._changed()

    def _model_selected(self) -> None:
        model = self._selected()
        self.ui.removeButton.enabled = model is not None and model.removable
        self.ui.removeButton.toolTip = (
            "" if model is None or model.removable else _("Only models in your own model folder are removed from here.")
        )

    def _selected(self) -> ModelOnDisk | None:
        row = tables.row_of(self.ui.modelsTable, self.ui.modelsTable.currentRow())
        return self._models[row] if 0 <= row < len(self._models) else None

    def _open_folder(self) -> None:
        folder = user_model_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._say(_("The folder {folder} cannot be made: {reason}").format(folder=folder, reason=error.strerror))
            return
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def _remove_model(self) -> None:
        model = self._selected()
        if model is None or not model.removable:
            return
        question = _("Remove the model {name} from the disk?").format(name=model.name)
        if not slicer.util.confirmOkCancelDisplay(question):
            return
        shutil.rmtree(model.folder, ignore_errors=True)
        if model.folder.exists():
            self._say(_("The model could not be removed; close what uses it and try again."))
        self.list_models()
        self._changed()

    def _say(self, text: str) -> None:
        self.ui.messageLabel.text = text
        self.ui.messageLabel.visible = bool(text)
