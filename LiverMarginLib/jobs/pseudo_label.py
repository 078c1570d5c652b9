"""Let a liver model draw the livers of a data set that has none, with a quality gate and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import modality_named
from LiverMarginLib.jobs.dataset import DatasetJob

if TYPE_CHECKING:
    from LiverMarginLib.datasets.model import Case, Dataset
    from LiverMarginLib.inference.model import SegmentationModel
    from LiverMarginLib.training.pseudo_labels import PseudoRecord, QualityGate
    from LiverMarginLib.volume import LabelMap, Volume


@dataclass(frozen=True)
class PseudoLabelJob(DatasetJob):
    """Draw livers; see docs/two_stage.md.

    Parameters
    ----------
    data : str
        A data set (see `DatasetJob`), whose label maps hold the cancer, or nothing, or already the liver.
    model : str
        Name or folder of a liver model.
    folder : str
        Receives a label map for each case that passes (1 liver, 2 cancer), and ``pseudo-labels.json``.
    min_litres, max_litres, min_cancer_inside : float
        The gate; see `LiverMarginLib.training.pseudo_labels.QualityGate`.
    modality : str, optional
        "CT" or "MR", for images that do not say it.
    device, runtime, precision : str
    threads : int, optional
        As for `SegmentJob`.
    """

    kind: ClassVar[str] = "pseudo-label"

    data: str = ""
    model: str = ""
    folder: str = "pseudo-labels"
    min_litres: float = 0.5
    max_litres: float = 4.0
    min_cancer_inside: float = 0.9
    modality: str | None = None
    device: str = "auto"
    runtime: str = "auto"
    threads: int | None = None
    precision: str = "single"

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Segment, judge, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.inference.model import load_model
        from LiverMarginLib.models.store import find_bundle
        from LiverMarginLib.terminology import LIVER
        from LiverMarginLib.training.pseudo_labels import QualityGate, write_provenance

        gate = QualityGate(self.min_litres, self.max_litres, self.min_cancer_inside)
        bundle = find_bundle(self.model)
        if LIVER.label not in [segment.label for segment in bundle.manifest.labels]:
            raise InputError(f"The model {bundle.manifest.name!r} does not find a liver; choose one that does.")
        dataset = self.open()
        if (modality := modality_named(self.modality)) is not None:
            dataset = replace(dataset, options=replace(dataset.options, modality=modality))
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = load_model(
            bundle, device=self.device, runtime=self.runtime, threads=self.threads, precision=self.precision
        )
        records: list[PseudoRecord] = []
        failed: dict[str, str] = {}
        for number, case in enumerate(dataset.cases):
            cancel.check()
            on_event(Progress(number, len(dataset.cases), "pseudo-labels", case.id))
            try:
                records.append(self._draw(dataset, case, model, gate, folder, on_event, cancel))
            except Cancelled:
                raise
            except LiverMarginError as error:
                failed[case.id] = error.message
                on_event(Notice(f"{case.id} was left out: {error.message}"))
            write_provenance(folder, bundle, gate, records)
        on_event(Progress(len(dataset.cases), len(dataset.cases), "pseudo-labels"))
        return {
            "model": bundle.manifest.name,
            "folder": str(folder),
            "cases": [{"case": record.name, **record.to_json()} for record in records],
            "kept": sum(not record.reason for record in records),
            "dropped": sum(bool(record.reason) for record in records),
            "failed": failed,
        }

    def _draw(
        self,
        dataset: Dataset,
        case: Case,
        model: SegmentationModel,
        gate: QualityGate,
        folder: Path,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> PseudoRecord:
        from LiverMarginLib.terminology import LIVER, LIVER_MASS
        from LiverMarginLib.training.pseudo_labels import PseudoRecord, provenance_of, pseudo_label
        from LiverMarginLib.volume import LabelMap, axial_view

        def notices(event: Event) -> None:
            if isinstance(event, Notice):
                on_event(Notice(f"{case.id}: {event.message}"))

        volume, given, _ = dataset.load(case)
        marked = given is not None and bool(given.mask(LIVER_MASS.label).any())
        cancer = "true" if marked else "none"
        if given is not None and given.mask(LIVER.label).any():
            self._write(given, folder, case.id, {"liver": "true", "cancer": cancer})
            return PseudoRecord(case.id, "true", cancer)
        _needs_spacing(volume)
        found = model.segment(volume, None, notices, cancel).labels
        view = axial_view(volume.geometry)
        seen = view.to_view(given.array) == LIVER_MASS.label if given is not None and marked else None
        label = pseudo_label(view.to_view(found.array), seen, volume.geometry.voxel_volume, gate)
        record = PseudoRecord(case.id, "pseudo", cancer, label.litres, label.cancer_inside, label.reason)
        if label.reason:
            on_event(Notice(f"{case.id} was dropped: {label.reason}."))
            return record
        array = found.array.copy()
        view.to_view(array)[...] = label.labels
        segments = (LIVER, LIVER_MASS) if marked else (LIVER,)
        made_by = {"liver": "pseudo", "cancer": cancer, "model": provenance_of(model.bundle)}
        self._write(LabelMap(array, volume.geometry, segments), folder, case.id, made_by)
        return record

    @staticmethod
    def _write(labels: LabelMap, folder: Path, name: str, provenance: Mapping[str, Any]) -> None:
        from LiverMarginLib.io.writers import write_labelmap

        write_labelmap(replace(labels, provenance=dict(provenance)), folder / f"{Path(name).name}.nii.gz")


def _needs_spacing(volume: Volume) -> None:
    if not volume.spacing_known:
        raise InputError("The voxel spacing is not known, so the liver's volume cannot be judged; give it (--spacing).")
