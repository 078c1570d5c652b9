"""Compare segmentations with a reference: one patient, or folders of patients matched by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress, ignore
from LiverMarginLib.jobs.base import Job

if TYPE_CHECKING:
    from LiverMarginLib.comparison import CaseComparison, Study
    from LiverMarginLib.metrics.overlap import BoolArray
    from LiverMarginLib.report.fragments import CaseFragment
    from LiverMarginLib.volume import LabelMap, Volume

# Files that are one patient each in a folder of patients. DICOM files and pictures are not: a folder of those is one
# patient's.
_PATIENT_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")

# Folders of the pictures and of the surfaces.
SLICES, SURFACES = "slices", "surfaces"

# For each patient the files: "" is the reference, the others are the models'.
_Patients = dict[str, dict[str, Path]]


@dataclass(frozen=True)
class CompareJob(Job):
    """Measure predictions against a reference.

    Parameters
    ----------
    reference : str
        A segmentation of one patient, or a folder with one label map file (`.nii.gz`, `.nrrd`, `.seg.nrrd`, `.mha`)
        for each patient.
    predictions : dict of str to str
        Segmentation by model name; folders of patients if the reference is one, with the same file names up to their
        suffix.
    folder : str
        Receives `per_slice.csv`, `per_patient.csv`, `summary.json`, `report.html` and the pictures. A second run
        with the same files and options computes only what is missing.
    label, prediction_label : str, optional
        Value or segment name of the organ, or several separated by commas. May be left out if there is only one.
    image : str, optional
        The CT or MR to draw the contours on; a folder of patients where the reference is one.
    series : str, optional
        Which DICOM series of `image`.
    report : bool
        Write `report.html`, one file that shows everything.
    pdf : bool
        Write `report.pdf`, the main table and the figures as pages.
    surfaces : bool
        Write each prediction's surface with its margin error at every point, for 3-D views.
    """

    kind: ClassVar[str] = "compare"

    reference: str
    predictions: dict[str, str] = field(default_factory=dict)
    folder: str = "comparison"
    label: str | None = None
    prediction_label: str | None = None
    image: str | None = None
    series: str | None = None
    report: bool = True
    pdf: bool = False
    surfaces: bool = False

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Read, compare, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.comparison import CaseInput, compare_cases, write_tables

        folder = Path(self.folder)
        patients = self._patients(on_event)
        loader = _Loader(self, on_event)
        store = _Store(folder / "cases", self, patients)
        finished = store.finished()

        def keep(case: CaseComparison, reference: LabelMap, predictions: Mapping[str, LabelMap]) -> None:
            store.keep(case, loader.draw(case, reference, predictions, folder))

        reference_labels, prediction_labels = loader.labels(next(iter(patients.values())))
        study = compare_cases(
            [CaseInput(name, partial(loader.load, files)) for name, files in patients.items()],
            reference_labels,
            prediction_labels,
            finished=finished,
            on_case=keep,
            on_event=on_event,
            cancel=cancel,
        )
        written = [str(path) for path in write_tables(study, folder).values()]
        written += [str(path) for path in self._report(study, store, on_event, cancel)]
        return {"outputs": written + _drawn(study, folder), "folder": str(folder), **study_values(study)}

    @property
    def wants_fragments(self) -> bool:
        """Whether pictures and maps must be kept for a report."""
        return self.report or self.pdf

    def image_of(self, patient: str) -> Path | None:
        """The image of a patient; None without images."""
        if self.image is None:
            return None
        path = Path(self.image)
        return patient_files(path).get(patient, path)

    def _report(self, study: Study, store: _Store, on_event: OnEvent, cancel: CancelToken) -> list[Path]:
        """Write the page and the pages that are wanted."""
        from LiverMarginLib.report.page import write_report
        from LiverMarginLib.report.paper import write_pdf

        wanted = []
        if self.report:
            wanted.append((write_report, "report.html"))
        if self.pdf:
            wanted.append((write_pdf, "report.pdf"))
        written = []
        for number, (write, name) in enumerate(wanted):
            on_event(Progress(number, len(wanted), "report"))
            written.append(write(study, store.fragment, Path(self.folder) / name, cancel=cancel))
        if wanted:
            on_event(Progress(len(wanted), len(wanted), "report"))
        return written

    def _patients(self, on_event: OnEvent) -> _Patients:
        """Find the files of each patient."""
        if not self.predictions:
            raise InputError("There is nothing to compare with the reference; give at least one prediction.")
        reference = Path(self.reference)
        if not reference.exists():
            raise InputError(f"There is no {reference.name}; check the path of the reference.")
        named = {"": reference, **{name: Path(path) for name, path in self.predictions.items()}}
        files = {name: patient_files(path) for name, path in named.items()}
        if not files[""]:
            return {"case": named}
        for name, found in files.items():
            if not found:
                raise InputError(
                    f"The reference is a folder of patients, but {named[name].name} of {name} is not; give its folder."
                )
        common = [patient for patient in files[""] if all(patient in found for found in files.values())]
        if not common:
            raise InputError("No patient has the same file name in all folders; name the files alike.")
        for name, found in files.items():
            missing = sorted(set(files[""]) - set(found))
            if missing:
                on_event(
                    Notice(f"{len(missing)} patient(s) have no segmentation by {name} and are left out: "
                           f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}.")
                )  # fmt: skip
        return {patient: {name: found[patient] for name, found in files.items()} for patient in common}


def patient_files(folder: Path) -> dict[str, Path]:
    """Label map files of a folder by name without suffix; empty if it is no folder of patients."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in _PATIENT_SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        if name in found:
            raise InputError(f"{folder.name} holds {found[name].name} and {path.name}; keep one file for each patient.")
        found[name] = path
    return found


class _Loader:
    """Reads one patient at a time and draws it while it is in memory."""

    def __init__(self, job: CompareJob, on_event: OnEvent) -> None:
        self._job = job
        self._on_event = on_event

    def load(self, files: Mapping[str, Path]) -> tuple[LabelMap, dict[str, LabelMap]]:
        """Return the reference and the predictions by model."""
        from LiverMarginLib.io.readers import read_labels

        label_maps = {name: read_labels(path, on_event=self._on_event) for name, path in files.items()}
        return label_maps.pop(""), label_maps

    def labels(self, files: Mapping[str, Path]) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]] | None]:
        """Return the label values that the job's names mean, looked up in the first patient."""
        reference, predictions = self.load(files)
        chosen = resolve_labels(reference, self._job.label)
        if self._job.prediction_label is None:
            return chosen, None
        return chosen, {
            name: resolve_labels(labels, self._job.prediction_label) for name, labels in predictions.items()
        }

    def draw(
        self, case: CaseComparison, reference: LabelMap, predictions: Mapping[str, LabelMap], folder: Path
    ) -> CaseFragment | None:
        """Draw every model's worst and median slices, and its surface if that is wanted.

        Returns the case's part of the report if there shall be one.
        """
        from LiverMarginLib.report.fragments import make_fragment
        from LiverMarginLib.report.pictures import draw_case, slice_stack

        image = self._image(case.case)
        stack = slice_stack(case, reference, predictions, image)
        if image is not None and stack.image is None:
            self._on_event(Notice(f"The image of {case.case} is not on the reference's grid and is not drawn."))
        draw_case(case, stack, folder / SLICES)
        if self._job.surfaces:
            _write_surfaces(case, stack.predictions, folder / SURFACES)
        return make_fragment(case, stack) if self._job.wants_fragments else None

    def _image(self, patient: str) -> Volume | None:
        from LiverMarginLib.io.readers import read_volume

        path = self._job.image_of(patient)
        if path is None:
            return None
        try:
            return read_volume(path, series=self._job.series, on_event=ignore)
        except LiverMarginError as error:
            self._on_event(Notice(f"The contours are drawn without the image: {error.message}"))
            return None


def resolve_labels(labels: LabelMap, wanted: str | None) -> tuple[int, ...]:
    """Label values that a name, a value or several separated by commas mean; None for the only one."""
    from LiverMarginLib.io.readers import resolve_label

    if wanted is None:
        return (resolve_label(labels, None),)
    parts = [part.strip() for part in wanted.split(",")]
    return tuple(resolve_label(labels, int(part) if part.isdigit() else part) for part in parts)


class _Store:
    """Comparisons of an earlier run and their parts of the report, kept under hashes of what they were made from."""

    def __init__(self, folder: Path, job: CompareJob, patients: _Patients) -> None:
        self._folder = folder
        self._job = job
        self._patients = patients
        self._digests: dict[str, str] = {}

    def finished(self) -> dict[str, CaseComparison]:
        """Return the comparisons that need not be made again."""
        from LiverMarginLib.comparison import read_case

        found = {}
        if len(self._patients) > 1:
            for patient in self._patients:
                path = self._case_path(patient)
                if path.is_file() and not (self._job.wants_fragments and self.fragment(patient) is None):
                    try:
                        case = read_case(path)
                    except LiverMarginError:
                        continue  # damaged: it is computed anew
                    if not self._job.surfaces or self._has_surfaces(case):
                        found[patient] = case
        return found

    def keep(self, case: CaseComparison, fragment: CaseFragment | None) -> None:
        """Store a comparison for a later run, and its part of the report."""
        from LiverMarginLib.comparison import write_case
        from LiverMarginLib.report.fragments import write_fragment

        self._folder.mkdir(parents=True, exist_ok=True)
        if fragment is not None:
            write_fragment(fragment, self._fragment_path(case.case))
        write_case(case, self._case_path(case.case))

    def fragment(self, patient: str) -> CaseFragment | None:
        """Return a patient's part of the report; None if there is none, or it is damaged."""
        from LiverMarginLib.report.fragments import read_fragment

        path = self._fragment_path(patient)
        if not path.is_file():
            return None
        try:
            return read_fragment(path)
        except LiverMarginError:
            return None

    def _has_surfaces(self, case: CaseComparison) -> bool:
        from LiverMarginLib.report.pictures import surface_path

        folder = Path(self._job.folder) / SURFACES
        return all(
            surface_path(folder, case.case, name).is_file()
            for name, prediction in case.predictions.items()
            if prediction.overlap.prediction.any()
        )

    def _case_path(self, patient: str) -> Path:
        if patient not in self._digests:
            options = [self._job.label, self._job.prediction_label, sorted(self._job.predictions)]
            self._digests[patient] = _digest(options, self._patients[patient])
        return self._folder / f"{self._digests[patient]}.json"

    def _fragment_path(self, patient: str) -> Path:
        """Beside the comparison; pictures drawn on another image are other pictures."""
        case = self._case_path(patient)
        image = self._job.image_of(patient)
        key = f"{patient}/image"
        if key not in self._digests:
            self._digests[key] = _digest([self._job.series], {"image": image})[:8] if image else "plain"
        return case.with_name(f"{case.stem}-{self._digests[key]}.npz")


def _digest(options: list[Any], files: Mapping[str, Path]) -> str:
    """Hash options and the contents of files and folders."""
    digest = hashlib.sha256(json.dumps(options).encode())
    for name, path in sorted(files.items()):
        digest.update(name.encode())
        for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if part.is_file():
                with part.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _write_surfaces(case: CaseComparison, masks: Mapping[str, BoolArray], folder: Path) -> None:
    """Write the surfaces of the models that have found something."""
    from LiverMarginLib.report.margin_colours import margin_limit
    from LiverMarginLib.report.margin_surface import margin_surface, write_margin_surface
    from LiverMarginLib.report.pictures import surface_path

    found = {
        name: prediction.margin
        for name, prediction in case.predictions.items()
        if prediction.margin is not None and len(prediction.margin.prediction_points)
    }
    limit = margin_limit(margin.at_prediction for margin in found.values())
    for name, margin in found.items():
        surface = margin_surface(margin, masks[name], case.geometry, limit)
        write_margin_surface(surface, surface_path(folder, case.case, name))


def _drawn(study: Study, folder: Path) -> list[str]:
    """The pictures and surfaces of this and of earlier runs."""
    from LiverMarginLib.report.pictures import picture_path, surface_path

    paths = [
        path
        for case in study.cases
        for model in case.predictions
        for path in (
            picture_path(folder / SLICES, case.case, model),
            surface_path(folder / SURFACES, case.case, model),
        )
    ]
    return [str(path) for path in paths if path.is_file()]


def study_values(study: Study) -> dict[str, Any]:
    """The numbers that a terminal shows; everything is in the files."""
    patients = [
        {
            "case": case.case,
            "models": {
                name: {key: value.value for key, value in prediction.values.items()}
                for name, prediction in case.predictions.items()
            },
        }
        for case in study.cases
    ]
    models = {
        name: {key: metric.patient_mean.value for key, metric in summary.metrics.items()}
        for name, summary in study.models.items()
    }
    return {
        "patients": patients,
        "models": models,
        "failed": [{"case": failure.case, "message": failure.message} for failure in study.failures],
    }
