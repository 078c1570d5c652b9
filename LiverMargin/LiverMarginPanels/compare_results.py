"""What the Compare panel shows of a comparison: numbers, slices to walk through, the compare view, and the files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.report.colours import model_colours
from LiverMarginPanels import shortcuts, tables
from LiverMarginPanels.compare_result import PATIENT_SCORES, SCORES, Comparison, Score, SliceScore
from LiverMarginPanels.compare_view import CompareView
from LiverMarginPanels.model_titles import model_titles
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.slice_list import Listed, listed_slices
from LiverMarginPanels.worker_client import Later


class CompareResults:
    """The lower half of the Compare panel.

    Parameters
    ----------
    ui : namespace of widgets
        Of ``ComparePanel.ui``.
    later : callable
        As for `WorkerClient`.
    say : callable
        Shows a sentence to the user.
    """

    def __init__(self, ui: Any, later: Later, say: Callable[[str], None]) -> None:
        self.ui = ui
        self._say = say
        self._comparison: Comparison | None = None
        self._image: Any = None
        self._rows: list[SliceScore] = []
        self._titles: dict[str, str] = {}
        self._colours: dict[str, str] = {}
        self._entered = False
        self.view = CompareView(slicer.mrmlScene, slicer.app.layoutManager(), later, self.go_to)
        self._keys = shortcuts.Shortcuts({shortcuts.NEXT: self._next, shortcuts.PREVIOUS: self._previous})
        self._listed = {
            _("all slices"): Listed.ALL,
            _("the worst of each"): Listed.WORST,
            _("slices with two regions"): Listed.TWO_REGIONS,
        }
        for score in SCORES:
            ui.scoreBox.addItem(score.title)
        for title in self._listed:
            ui.showBox.addItem(title)
        connect(ui.slicesTable, "currentCellChanged(int,int,int,int)", self._row_chosen)
        connect(ui.slicesTable, "cellClicked(int,int)", self._row_chosen)
        connect(ui.scoreBox, "currentIndexChanged(int)", self._score_chosen)
        connect(ui.showBox, "currentIndexChanged(int)", self._list_slices)
        connect(ui.modelBox, "currentIndexChanged(int)", self._list_slices)
        connect(ui.nextButton, "clicked()", self._next)
        connect(ui.previousButton, "clicked()", self._previous)
        connect(ui.layoutCheck, "toggled(bool)", self._layout_toggled)
        connect(ui.surfaceBox, "currentIndexChanged(int)", self._colour)
        connect(ui.sliceColoursCheck, "toggled(bool)", self._colour)
        connect(ui.reportButton, "clicked()", self._open_report)
        connect(ui.folderButton, "clicked()", self._open_folder)
        connect(ui.saveButton, "clicked()", self._save)

    def show(self, comparison: Comparison, image: Any) -> None:
        """Show a comparison, in the compare layout if the module is shown and the user wants it.

        Parameters
        ----------
        comparison : Comparison
        image : vtkMRMLScalarVolumeNode or None
            What the outlines are drawn on.
        """
        self._comparison, self._image = comparison, image
        self._titles = model_titles(comparison.predictions)
        self._colours = {self._titles[name]: colour for name, colour in model_colours(comparison.predictions).items()}
        tables.fill(
            self.ui.modelsTable,
            (_("Segmentation"), *(score.title for score in PATIENT_SCORES)),
            [
                (self._titles[name], *(_shown(scores[score.key]) for score in PATIENT_SCORES))
                for name, scores in comparison.models.items()
            ],
            colours=self._colours,
        )
        _offer(self.ui.modelBox, [_("all segmentations"), *self._titles.values()])
        _offer(self.ui.surfaceBox, [_("none"), *(self._titles[name] for name in comparison.surfaces)])
        self.ui.surfaceBox.setCurrentIndex(min(1, len(comparison.surfaces)))
        self.ui.filesLabel.text = _where(comparison)
        self.ui.reportButton.enabled = comparison.report.is_file()
        self.ui.reportButton.toolTip = str(comparison.report)
        self.ui.folderButton.toolTip = str(comparison.folder)
        self._list_slices()
        if self._entered:
            self._keys.set_enabled(True)
            self._show_layout()

    def drop(self) -> None:
        """Forget the comparison and go back to the user's layout."""
        self.view.hide()
        self._forget()

    def scene_closes(self) -> None:
        """Forget the comparison with its nodes."""
        self.view.scene_closes()
        self._forget()

    def enter(self) -> None:
        """The module is shown."""
        self._entered = True
        if self._comparison is not None:
            self._keys.set_enabled(True)
            if not self.view.shown:
                self._show_layout()

    def leave(self) -> None:
        """The module is left."""
        self._entered = False
        self._keys.set_enabled(False)
        self.view.hide()

    def cleanup(self) -> None:
        """The module is closed or reloaded."""
        self.drop()
        self._keys.remove()

    def go_to(self, index: int) -> None:
        """Show an axial slice in all views."""
        if self._comparison is not None:
            self.view.go_to(self._comparison, index)

    def _forget(self) -> None:
        self._comparison, self._image, self._rows = None, None, []
        self._keys.set_enabled(False)
        self.ui.resultBox.visible = False

    def _score(self) -> Score:
        return SCORES[max(self.ui.scoreBox.currentIndex, 0)]

    def _list_slices(self, *_index: int) -> None:
        if self._comparison is None:
            return
        ui, models = self.ui, list(self._comparison.models)
        listed = list(self._listed.values())[max(ui.showBox.currentIndex, 0)]
        model = models[ui.modelBox.currentIndex - 1] if ui.modelBox.currentIndex > 0 else None
        score = self._score()
        scores = (score, *(each for each in SCORES if each is not score))  # the one that counts where it is seen
        self._rows = listed_slices(self._comparison, listed, score, model)
        titles = (_("Slice"), _("Segmentation"))
        more = (_("Found in"), _("Position (mm)"))
        status = {"both": _("both"), "missed": _("reference only"), "extra": _("prediction only")}
        tables.fill(
            ui.slicesTable,
            (*titles, *(each.title for each in scores), *more),
            [
                (row.index, self._titles[row.model], *(_cell(row.scores.get(each.key)) for each in scores),
                 status.get(row.status, row.status), round(row.position_mm, 1))
                for row in self._rows
            ],
            sort_by=len(titles),
            descending=not score.best_is_large,
            colours=self._colours,
        )  # fmt: skip
        ui.placeLabel.text = _("{count} rows, the worst first").format(count=len(self._rows))
        ui.nextButton.enabled = ui.previousButton.enabled = bool(self._rows)

    def _row_chosen(self, row: int, *_others: int) -> None:
        number = tables.row_of(self.ui.slicesTable, row)
        if 0 <= number < len(self._rows):
            chosen = self._rows[number]
            self.go_to(chosen.index)
            self.ui.placeLabel.text = _("{place} of {count}: slice {index}, {model}").format(
                place=row + 1, count=len(self._rows), index=chosen.index, model=self._titles[chosen.model]
            )

    def _next(self) -> None:
        tables.step(self.ui.slicesTable, 1)

    def _previous(self) -> None:
        tables.step(self.ui.slicesTable, -1)

    def _score_chosen(self, _index: int) -> None:
        self._list_slices()
        if self.view.shown:
            self.view.set_score(self._score())

    def _layout_toggled(self, wanted: bool) -> None:
        if wanted and self._comparison is not None:
            self._show_layout()
        else:
            self.view.hide()

    def _show_layout(self) -> None:
        if self.ui.layoutCheck.checked and self._comparison is not None:
            image = self._image if self._image is not None and self._image.GetScene() is not None else None
            self.view.show(self._comparison, self._score(), image)
            self._colour()

    def _colour(self, *_state: object) -> None:
        if self._comparison is None or not self.view.shown:
            return
        shown, names = self.ui.surfaceBox.currentIndex, list(self._comparison.surfaces)
        try:
            self.view.colour(names[shown - 1] if shown > 0 else None, self.ui.sliceColoursCheck.checked)
        except LiverMarginError as error:
            self._say(error.message)

    def _open_report(self) -> None:
        if self._comparison is not None:
            _open(self._comparison.report)

    def _open_folder(self) -> None:
        if self._comparison is not None:
            _open(self._comparison.folder)

    def _save(self) -> None:
        """Copy tables, report, pictures and surfaces to a folder of the user's."""
        if self._comparison is None:
            return
        title = _("Folder for the tables and the report")
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if not folder:
            return
        try:
            self._comparison.save(Path(folder))
        except OSError as error:
            self._say(_("Not everything could be saved: {reason}").format(reason=error.strerror or error))
            return
        self.ui.filesLabel.text = _("Saved in {folder}").format(folder=folder)


def _offer(box: Any, titles: list[str]) -> None:
    was_blocked = box.blockSignals(True)
    box.clear()
    for title in titles:
        box.addItem(title)
    box.setCurrentIndex(0)
    box.blockSignals(was_blocked)


def _where(comparison: Comparison) -> str:
    if comparison.kept:
        return _("Tables, report and pictures lie in {folder}").format(folder=comparison.folder)
    return _("Tables, report and pictures are kept until the next comparison; save them to keep them longer.")


def _open(path: Path) -> None:
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))


def _cell(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _shown(value: float | None) -> str:
    """A number in a table that nobody sorts: with its zeros, and a dash where it is not defined."""
    cell = _cell(value)
    return "\N{EN DASH}" if cell is None else f"{cell:.3f}"
