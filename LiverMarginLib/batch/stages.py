"""The three jobs of a case. Each runs in a worker process and leaves what it made in the case's scratch folder.

Read and finish run in one kind of worker, segment in the other, so that the network never waits for a file.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.batch.plan import Case, case_from_dict, case_key, content_digest
from LiverMarginLib.batch.records import (
    LASTING,
    CaseRecord,
    Status,
    is_whole,
    publish,
    read_record,
    write_record,
)
from LiverMarginLib.digest import sha256_of
from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import Job, modality_named
from LiverMarginLib.jobs.segment import SegmentJob, measurements

if TYPE_CHECKING:
    from LiverMarginLib.metrics.overlap import BoolArray
    from LiverMarginLib.volume import LabelMap, Volume

SEGMENTATION = "liver"
PREVIEW = "preview.png"
_RESULT = "result"
_MODEL = "model"


@dataclass(frozen=True)
class CaseJob(Job):
    """What the jobs of a case have in common.

    Parameters
    ----------
    case : dict
        Fields of `Case`.
    scratch : str
        Folder of this case alone, on the disk of the output.
    """

    case: dict[str, object]
    scratch: str

    @property
    def of_case(self) -> Case:
        """The case as a value."""
        return case_from_dict(self.case)


@dataclass(frozen=True)
class ReadJob(CaseJob):
    """Hash and read the image, unless its result is there already.

    Parameters
    ----------
    settings : str
        Digest of model and options.
    final : str
        Folder of the case's result.
    again : bool
        Also read it if an earlier run failed on the same files with the same settings.
    """

    kind: ClassVar[str] = "batch-read"

    settings: str = ""
    final: str = ""
    again: bool = False

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Return the case's key; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.batch.scratch import save_volume

        started = time.perf_counter()
        case, scratch = self.of_case, Path(self.scratch)
        image, reference = content_digest(case.input_files()), content_digest(case.reference_files())
        key = case_key(self.settings, image, reference if case.reference else "")
        if self._is_settled(key):
            return {"key": key, "unchanged": True}
        cancel.check()
        answer: dict[str, Any] = {
            "key": key,
            "unchanged": False,
            "digests": {"image": image, **({"reference": reference} if case.reference else {})},
        }
        try:
            volume = read_case(case, on_event)
            if content_digest(case.input_files()) != image:
                raise InputError("The image changed while it was read; start again when it is complete.")
        except Cancelled:
            raise
        except LiverMarginError as error:
            # A result as well: with its key, so that the same files need not be read again to fail again.
            return {**answer, "kind": error.kind, "problem": error.message}
        scratch.mkdir(parents=True, exist_ok=True)
        save_volume(volume, scratch)
        return {**answer, "seconds": round(time.perf_counter() - started, 3)}

    def _is_settled(self, key: str) -> bool:
        """Whether an earlier run has the answer to the same files and settings."""
        final = Path(self.final)
        known = read_record(final)
        if known is None or known.key != key:
            return False
        if known.status.has_result:
            return is_whole(known, final)
        return known.error in LASTING and not self.again


def read_case(case: Case, on_event: OnEvent) -> Volume:
    """Read the image of a case."""
    from LiverMarginLib.io.dicom import read_series
    from LiverMarginLib.io.dicom_headers import ObjectKind, scan
    from LiverMarginLib.io.notes import Notes
    from LiverMarginLib.io.readers import read_volume

    modality = modality_named(case.modality)
    if not case.files:
        return read_volume(case.folder, modality=modality, on_event=on_event)
    found = [series for series in scan(case.input_files()) if series.kind is ObjectKind.IMAGE]
    if len(found) != 1:
        raise InputError("The DICOM series is not what it was when the cases were listed; start again.")
    return read_series(found[0], modality, Notes(on_event), on_event)


@dataclass(frozen=True)
class ComputeJob(CaseJob):
    """Segment the image that `ReadJob` left.

    Parameters
    ----------
    options : dict
        Fields of `SegmentJob` besides the input and the outputs.
    """

    kind: ClassVar[str] = "batch-segment"

    options: dict[str, object] = dataclasses.field(default_factory=dict)

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Segment; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.batch.scratch import load_volume, save_labels

        started = time.perf_counter()
        job = SegmentJob.from_fields({**self.options, "input": "", "outputs": ()})
        volume = load_volume(Path(self.scratch))
        labels = job.segment(volume, job.bundles(), on_event, cancel)
        seconds = round(time.perf_counter() - started, 3)
        save_labels(labels, Path(self.scratch))
        return {"device": labels.provenance["device"], "seconds": seconds}


@dataclass(frozen=True)
class FinishJob(CaseJob):
    """Write, measure and draw what `ComputeJob` found, and publish the case's folder.

    Parameters
    ----------
    final : str
        Folder of the case's result, which appears whole.
    formats : tuple of str
        Suffixes of the files to write.
    key : str
    digests : dict
    seconds : dict
        Of the stages before.
    notes : tuple of str
        Of the stages before, without names.
    """

    kind: ClassVar[str] = "batch-finish"

    final: str = ""
    formats: tuple[str, ...] = ("seg.nrrd",)
    key: str = ""
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Write; see `LiverMarginLib.jobs.run`. The result is the case's record."""
        from LiverMarginLib.batch.privacy import Scrubber
        from LiverMarginLib.batch.scratch import load_labels, load_volume
        from LiverMarginLib.report.preview import draw_preview

        started = time.perf_counter()
        case, scratch = self.of_case, Path(self.scratch)
        scrub = Scrubber(case.folder, case.reference)
        notes = list(self.notes)

        def listen(event: Event) -> None:
            if isinstance(event, Notice):
                notes.append(scrub(event.message))
            on_event(event)

        volume, (labels, _) = load_volume(scratch), load_labels(scratch)
        made = scratch / _RESULT
        made.mkdir()
        self._write(case, labels, made, listen, cancel)
        reference, metrics, error = self._measure(case, labels, listen, cancel)
        draw_preview(volume, labels, reference, made / PREVIEW)
        found = measurements(volume, labels)
        worst = found["least_sure_slice"]
        empty = not any(segment["voxels"] for segment in found["segments"])
        record = CaseRecord(
            case=case.name,
            status=Status.NO_LIVER if empty else Status.DONE,
            key=self.key,
            message=" ".join(dict.fromkeys(notes)),
            error=error,
            seconds={**self.seconds, "finish": round(time.perf_counter() - started, 3)},
            volumes_ml={segment["name"]: segment["volume_ml"] for segment in found["segments"]},
            slices=found["slices"],
            confidence=found["confidence"],
            least_sure_slice=worst,
            least_confidence=None if worst is None else found["slice_confidence"][worst],
            metrics=metrics,
            device=labels.provenance["device"],
            files={path.name: sha256_of(path) for path in sorted(made.iterdir())},
            digests=self.digests,
        )
        cancel.check()
        write_record(record, made)
        publish(made, Path(self.final), scratch)
        return {"status": record.status}

    def _write(self, case: Case, labels: LabelMap, folder: Path, on_event: OnEvent, cancel: CancelToken) -> None:
        from LiverMarginLib.io.writers import write_labelmap

        for number, suffix in enumerate(self.formats):
            cancel.check()
            on_event(Progress(number, len(self.formats), "write"))
            if suffix == "dcm" and not case.files:
                on_event(Notice("The image is not DICOM, so no DICOM SEG was written."))
            elif suffix in ("stl", "obj", "ply") and not labels.array.any():
                on_event(Notice(f"Nothing was found, so no {suffix} surface was written."))
            else:
                source = case.input_files() if case.files else Path(case.folder)
                write_labelmap(labels, folder / f"{SEGMENTATION}.{suffix}", source=source)

    def _measure(
        self, case: Case, labels: LabelMap, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[BoolArray | None, dict[str, Any], str]:
        """The reference's mask in the image's axial view, the patient's numbers, and the kind of what went wrong.

        A reference that cannot be used spoils no segmentation.
        """
        import numpy as np

        from LiverMarginLib.comparison import compare_case
        from LiverMarginLib.comparison.alignment import align
        from LiverMarginLib.comparison.store import encode
        from LiverMarginLib.io.readers import read_labels
        from LiverMarginLib.jobs.compare import resolve_labels
        from LiverMarginLib.volume import axial_view

        if case.reference is None:
            return None, {}, ""
        found = tuple(segment.label for segment in labels.segments)
        try:
            reference = read_labels(case.reference, on_event=on_event)
            chosen = resolve_labels(reference, case.label)
            compared = compare_case(
                reference, {_MODEL: labels}, chosen, found, case=case.name, threads=1, cancel=cancel, on_event=on_event
            )
            mask = np.isin(align(reference, axial_view(labels.geometry).geometry, "reference")[0], chosen)
        except Cancelled:
            raise
        except LiverMarginError as error:
            on_event(Notice(f"The case was segmented but not measured: {error.message}"))
            return None, {}, error.kind
        return mask, encode({key: value.value for key, value in compared.predictions[_MODEL].values.items()}), ""
