"""Check a data set, split it by patient, export it as KITTI 1.0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import Job

if TYPE_CHECKING:
    from LiverMarginLib.datasets.model import Case, Dataset


@dataclass(frozen=True)
class DatasetJob(Job):
    """Base of the jobs on a data set: where it lies and how it is to be taken.

    Parameters
    ----------
    data : str
        A folder, a zip or a dataset.json; see `LiverMarginLib.datasets.layouts.open_dataset` for this and the rest.
    label, tumour : int or str, optional
    empty_outside : bool
    spacing : tuple of float, optional
        mm along (k, j, i), of pictures.
    inferior_first : bool
        The first picture of a stack is the lowest slice.
    frame_offset : int, optional
    images, case_table : str, optional
    """

    data: str
    label: int | str | None = None
    tumour: int | str | None = None
    empty_outside: bool = False
    spacing: tuple[float, float, float] | None = None
    inferior_first: bool = False
    frame_offset: int | None = None
    images: str | None = None
    case_table: str | None = None

    def open(self) -> Dataset:
        """Open the data set."""
        from LiverMarginLib.datasets.layouts import open_dataset

        return open_dataset(
            self.data,
            label=self.label,
            tumour=self.tumour,
            empty_outside=self.empty_outside,
            spacing=self.spacing,
            superior_first=not self.inferior_first,
            frame_offset=self.frame_offset,
            images=self.images,
            case_table=self.case_table,
        )


@dataclass(frozen=True)
class CheckDatasetJob(DatasetJob):
    """Read everything once and report what is odd.

    Parameters
    ----------
    outputs : tuple of str
        Files for the report: ``.json``, ``.csv`` or ``.txt``.
    """

    kind: ClassVar[str] = "dataset-check"

    outputs: tuple[str, ...] = ()

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Check; see `LiverMarginLib.jobs.run`. The result is the report, its text and the files written."""
        from LiverMarginLib.datasets.check import check_dataset
        from LiverMarginLib.io.atomic import atomic_path

        for output in self.outputs:
            if Path(output).suffix.casefold() not in (".json", ".csv", ".txt"):
                raise InputError(f"{Path(output).name} must end in .json, .csv or .txt, which says how to write it.")
        report = check_dataset(self.open(), on_event, cancel)
        texts = {".json": report.to_json, ".csv": report.to_csv, ".txt": report.to_text}
        for output in self.outputs:
            with atomic_path(Path(output)) as temporary:
                temporary.write_text(texts[Path(output).suffix.casefold()](), encoding="utf-8")
        return {**report.to_dict(), "text": report.to_text(), "outputs": list(self.outputs)}


@dataclass(frozen=True)
class SplitDatasetJob(DatasetJob):
    """Write split.json; see `LiverMarginLib.datasets.split.split_dataset` for the fields.

    Parameters
    ----------
    output : str
    folds : int, optional
    fractions : tuple of float, optional
        Of train, val and test.
    seed : int
    stratify_by_size : bool
    by : str
    force : bool
    check_duplicates : bool
    """

    kind: ClassVar[str] = "dataset-split"

    output: str = "split.json"
    folds: int | None = None
    fractions: tuple[float, ...] | None = None
    seed: int = 0
    stratify_by_size: bool = True
    by: str = "patient"
    force: bool = False
    check_duplicates: bool = True

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Split; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.datasets.split import split_dataset

        dataset = self.open()
        split = split_dataset(
            dataset,
            folds=self.folds,
            fractions=self.fractions,
            seed=self.seed,
            stratify_by_size=self.stratify_by_size,
            by=self.by,
            force=self.force,
            check_duplicates=self.check_duplicates,
            on_event=on_event,
            cancel=cancel,
        )
        split.save(self.output)
        parts: dict[str, int] = {}
        for part in split.cases.values():
            for name in {part} if not isinstance(part, tuple) else set(part):
                shown = f"fold {name}" if split.folds else str(name)
                parts[shown] = parts.get(shown, 0) + 1
        return {"output": self.output, "cases_by_part": parts, "patients": len(set(split.patients.values()))}


@dataclass(frozen=True)
class ExportKittiJob(DatasetJob):
    """Write every case with masks as a KITTI 1.0 zip of its own.

    Parameters
    ----------
    output : str
        Folder that receives the zips.
    with_images : bool
    separate_tumour : bool
        Two classes, liver and tumour, rather than one.
    window : tuple of float, optional
        Values that become 0 and 255 in images that are not 8- or 16-bit already.
    overwrite : bool
        Replace zips that exist; otherwise their cases are left alone.
    """

    kind: ClassVar[str] = "dataset-export-kitti"

    output: str = "kitti"
    with_images: bool = True
    separate_tumour: bool = False
    window: tuple[float, float] | None = None
    overwrite: bool = False

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Export; see `LiverMarginLib.jobs.run`. A damaged case is told and the others go on."""
        dataset = self.open()
        written, failed = [], []
        for number, case in enumerate(dataset.cases):
            cancel.check()
            on_event(Progress(number, len(dataset.cases), "write", case.id))
            if case.masks is None:
                on_event(Notice(f"Case {case.id} has no masks and is not exported."))
                continue
            path = Path(self.output) / f"{case.id.replace('/', '_')}.zip"
            if path.exists() and not self.overwrite:
                on_event(Notice(f"{path.name} exists already and is left as it is."))
                continue
            try:
                frames = self._export(dataset, case, path)
            except Cancelled:
                raise
            except LiverMarginError as error:
                if error.kind == "resource":
                    raise
                failed.append({"case": case.id, "message": error.message})
                on_event(Notice(f"Case {case.id} is not exported: {error.message}"))
            else:
                written.append({"case": case.id, "path": str(path), "frames_with_masks": frames})
        on_event(Progress(len(dataset.cases), len(dataset.cases), "write"))
        return {"written": written, "failed": failed}

    def _export(self, dataset: Dataset, case: Case, path: Path) -> int:
        from LiverMarginLib.datasets.sources import PictureStack
        from LiverMarginLib.io.kitti_writer import write_kitti

        volume, labels, _ = dataset.load(case)
        assert labels is not None  # the case has masks
        stems = None
        if isinstance(case.images, PictureStack):
            # The pictures' own names, so that what is corrected elsewhere finds its way back.
            names = [PurePosixPath(name).stem for name in case.images.names]
            names = names if case.images.superior_first else names[::-1]
            stems = names if len({name.casefold() for name in names}) == len(names) else None
        annotated = write_kitti(
            volume if self.with_images else None,
            labels,
            path,
            label_name={1: "liver", 2: "tumour"} if self.separate_tumour else "liver",
            stems=stems,
            window=self.window,
            overwrite=self.overwrite,
        )
        return len(annotated)
