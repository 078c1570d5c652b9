"""Run bundles on the test patients of a data set, or on phantoms, and compare them with the masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent
from LiverMarginLib.jobs.base import modality_named
from LiverMarginLib.jobs.cohort import TEST_SEEDS, PhantomCohort
from LiverMarginLib.jobs.compare import SLICES, study_values
from LiverMarginLib.jobs.dataset import DatasetJob

if TYPE_CHECKING:
    from LiverMarginLib.comparison import CaseComparison
    from LiverMarginLib.volume import LabelMap, Volume

_TARGETS = {"liver": (1, 2), "tumour": (2,)}


@dataclass(frozen=True)
class EvaluateJob(DatasetJob):
    """Segment and compare.

    Parameters
    ----------
    models : tuple of str
        Names or folders of bundles.
    data : str
        A data set; empty for phantoms.
    folder : str
        Receives the tables, the report and the pictures of the comparison.
    split : str, optional
        A split.json; without it all cases with masks are evaluated, with a notice.
    part : str
        "train", "val" or "test".
    fold : int, optional
        Which fold of a k-fold split is the test part.
    phantoms : int
        Number of phantom patients, when `data` is empty; none of them is ever trained or validated on.
    phantom_shape, phantom_spacing : tuple
        Their voxels and mm along (k, j, i).
    phantom_lesions : int, optional
    phantom_lesion_mm : tuple of float, optional
        Lesions of each liver, and their smallest and largest radius; drawn by the seed if None.
    modality : str, optional
        "CT" or "MR": of the phantoms (CT if None), and of images of a data set that do not say it.
    phantom_noise : float, optional
        Standard deviation of their noise in HU; drawn by their seeds if None.
    denoise : str, optional
        Name or folder of a denoising bundle: every model is then evaluated with it as well as without.
    target : str
        What is compared: "liver" (with the masses in it, as the organ is drawn by most ground truths) or "tumour".
    device, runtime, precision : str
        As for `SegmentJob`.
    """

    kind: ClassVar[str] = "evaluate"

    data: str = ""
    models: tuple[str, ...] = ()
    folder: str = "evaluation"
    split: str | None = None
    part: str = "test"
    fold: int | None = None
    phantoms: int = 10
    phantom_shape: tuple[int, int, int] = PhantomCohort.shape
    phantom_spacing: tuple[float, float, float] = PhantomCohort.spacing
    phantom_lesions: int | None = None
    phantom_lesion_mm: tuple[float, float] | None = None
    modality: str | None = None
    phantom_noise: float | None = None
    denoise: str | None = None
    target: str = "liver"
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "single"

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Segment, compare, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.comparison import CaseInput, compare_cases, write_tables
        from LiverMarginLib.inference.model import load_model
        from LiverMarginLib.models.store import find_bundle
        from LiverMarginLib.report.fragments import CaseFragment, make_fragment
        from LiverMarginLib.report.page import write_report
        from LiverMarginLib.report.pictures import draw_case, slice_stack
        from LiverMarginLib.training.leakage import models_that_saw
        from LiverMarginLib.training.volume_data import case_hash
        from LiverMarginLib.volume import axial_view

        if not self.models:
            raise InputError("There is nothing to evaluate; name at least one model.")
        bundles = [find_bundle(model) for model in self.models]
        names = [bundle.manifest.name for bundle in bundles]
        if len(set(names)) != len(names):
            names = list(self.models)
        if self.target not in _TARGETS:
            raise InputError(f"There is no target {self.target!r}; choose one of {', '.join(_TARGETS)}.")
        wanted = _TARGETS[self.target]
        for bundle in bundles:
            if not {segment.label for segment in bundle.manifest.labels} & set(wanted):
                raise InputError(f"The model {bundle.manifest.name!r} does not find a {self.target}; leave it out.")
        models = [
            load_model(bundle, device=self.device, runtime=self.runtime, precision=self.precision) for bundle in bundles
        ]
        denoised = self._denoiser()
        taught = {bundle.manifest.name: bundle for model in models for bundle in model.bundles}.values()
        images: dict[str, Volume] = {}

        def notices(event: Event) -> None:
            if isinstance(event, Notice):
                on_event(event)

        def load(case: str, read: Callable[[], tuple[Volume, LabelMap]]) -> tuple[LabelMap, Mapping[str, LabelMap]]:
            volume, reference = read()
            if self.data:
                image = axial_view(volume.geometry).to_view(volume.array)
                for name in models_that_saw(case_hash(image), taught):
                    on_event(Notice(f"The model {name!r} was trained on {case}, so its scores there say nothing."))
            seen = {"": volume} if denoised is None else {"": volume, f" + {denoised[0]}": denoised[1](volume)}
            found = {
                name + after: model.segment(image, None, notices, cancel).labels
                for name, model in zip(names, models, strict=True)
                for after, image in seen.items()
            }
            images.clear()  # one patient is in memory at a time
            images[case] = volume
            return reference, found

        pictures: list[str] = []
        fragments: dict[str, CaseFragment] = {}

        def draw(case: CaseComparison, reference: LabelMap, found: Mapping[str, LabelMap]) -> None:
            stack = slice_stack(case, reference, found, images[case.case])
            pictures.extend(map(str, draw_case(case, stack, Path(self.folder) / SLICES)))
            fragments[case.case] = make_fragment(case, stack)

        study = compare_cases(
            [CaseInput(case, partial(load, case, read)) for case, read in self._cases(on_event).items()],
            wanted,
            wanted,
            on_case=draw,
            on_event=on_event,
            cancel=cancel,
        )
        written = [str(path) for path in write_tables(study, Path(self.folder)).values()]
        written.append(str(write_report(study, fragments.get, Path(self.folder) / "report.html", cancel=cancel)))
        return {"outputs": written + pictures, "folder": self.folder, **study_values(study)}

    def _denoiser(self) -> tuple[str, Callable[[Volume], Volume]] | None:
        """Return the denoising bundle's name, and what it does to a volume."""
        if self.denoise is None:
            return None
        from LiverMarginLib.inference.denoising import denoise_volume, load_denoiser_of_same_size
        from LiverMarginLib.models.store import find_bundle

        bundle = find_bundle(self.denoise)
        denoiser = load_denoiser_of_same_size(bundle, device=self.device, runtime=self.runtime)
        return bundle.manifest.name, lambda volume: denoise_volume(volume, denoiser)

    def _cases(self, on_event: OnEvent) -> dict[str, Callable[[], tuple[Volume, LabelMap]]]:
        if not self.data:
            seeds = range(TEST_SEEDS, TEST_SEEDS + self.phantoms)
            return {f"phantom {seed}": partial(self._phantom, seed) for seed in seeds}
        from LiverMarginLib.datasets.split import load_split

        dataset = self.open()
        if (modality := modality_named(self.modality)) is not None:
            dataset = replace(dataset, options=replace(dataset.options, modality=modality))
        if self.split is None:
            chosen = [case.id for case in dataset.cases if case.masks is not None]
            on_event(Notice("Without a split all cases are evaluated, those of the training too if they are here."))
        else:
            split = load_split(self.split)
            split.check_against(dataset)
            parts = split.parts(self.fold)
            if self.part not in parts:
                raise InputError(f"A split has no part {self.part!r}; choose one of {', '.join(parts)}.")
            chosen = list(parts[self.part])

        def read(case: str) -> tuple[Volume, LabelMap]:
            found = dataset.load(case)
            if found.labels is None:
                raise InputError("The case has no mask.")
            return found.volume, found.labels

        return {case: partial(read, case) for case in chosen}

    def _phantom(self, seed: int) -> tuple[Volume, LabelMap]:
        from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
        from LiverMarginLib.volume import Modality

        options = PhantomOptions(
            shape=self.phantom_shape,
            spacing=self.phantom_spacing,
            noise_hu=self.phantom_noise,
            lesions=self.phantom_lesions,
            lesion_mm=self.phantom_lesion_mm,
            modality=modality_named(self.modality) or Modality.CT,
        )
        phantom = make_phantom(seed, options)
        return phantom.volume, liver_target(phantom.labels, tumour=True)
