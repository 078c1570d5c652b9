"""Tune what comes after a network on phantoms, never on images that figures are reported of."""

from __future__ import annotations

import functools
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, InputError
from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job
from LiverMarginLib.jobs.cohort import TUNING_SEEDS, PhantomCohort
from LiverMarginLib.volume import IntensityKind, Modality, Volume

if TYPE_CHECKING:
    from LiverMarginLib.inference.tuning import Tuning
    from LiverMarginLib.models.bundle import Bundle
    from LiverMarginLib.models.manifest import Manifest

_WITHOUT_LIVER = 4  # one in so many phantoms
_MOST = 200  # they are kept in memory


@dataclass(frozen=True)
class TuneJob(Job):
    """Choose threshold and post-processing of a slice-wise liver model, and note what its training images look like.

    Parameters
    ----------
    model : str
        Name or folder of a bundle.
    out : str
        Folder of the tuned bundle: the same weights, with another threshold and post-processing where they gain.
    phantoms : int
        Of patients that no training, validation or evaluation uses; one in four shows the chest or the pelvis alone.
    shape, spacing : tuple
        Of the phantoms: voxels and mm along (k, j, i).
    """

    kind: ClassVar[str] = "tune"

    model: str
    out: str
    phantoms: int = 12
    shape: tuple[int, int, int] = PhantomCohort.shape
    spacing: tuple[float, float, float] = PhantomCohort.spacing

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Make the phantoms, segment, choose, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.inference.resemblance import ENTRY, measure, ranges
        from LiverMarginLib.inference.segmenter import load_segmenter
        from LiverMarginLib.inference.tuning import tune
        from LiverMarginLib.models.store import find_bundle

        bundle = find_bundle(self.model)
        manifest = bundle.manifest
        self._check(manifest)
        measured: list[dict[str, float]] = []

        def image(number: int) -> tuple[Volume, npt.NDArray[np.bool_]]:
            volume, truth = self._image(manifest, number)
            if truth.any() and manifest.input_kind is IntensityKind.HU:
                # The phantoms' slice distance is ours, not the training's, which a slice-wise network does not know.
                spacing = (math.nan, *self.spacing[1:])
                measured.append(measure(volume.array, spacing, IntensityKind.HU))
            return volume, truth

        on_event(Progress(0, self.phantoms, "tune"))
        tuning = tune(
            bundle,
            load_segmenter(bundle),
            [functools.partial(image, number) for number in range(self.phantoms)],
            lambda done: on_event(Progress(done, self.phantoms, "tune")),
            cancel,
        )
        record = {
            "phantoms": self.phantoms,
            "dice_before": round(tuning.own.score, 5),
            "dice": round(tuning.best.score, 5),
            "dice_by_threshold": {f"{value:g}": score for value, score in tuning.by_threshold.items()},
        }
        training = {**manifest.training, "tuned": record}
        if measured and ENTRY not in training:
            training[ENTRY] = ranges(measured)
        written = _write(bundle, tuning, training, Path(self.out))
        return {
            "bundle": str(written),
            "threshold_before": tuning.own.threshold,
            "threshold": tuning.best.threshold,
            "postprocessing": {
                "largest_component": tuning.best.postprocessing.largest_component,
                "fill_holes": tuning.best.postprocessing.fill_holes.value,
            },
            **record,
        }

    def _check(self, manifest: Manifest) -> None:
        from LiverMarginLib.models.manifest import Task
        from LiverMarginLib.terminology import LIVER

        if not 2 <= self.phantoms <= _MOST:
            raise InputError(f"Tuning takes 2 to {_MOST} phantoms, not {self.phantoms}.")
        if Path(self.out).exists():
            raise InputError(f"The folder {Path(self.out).name} exists already; choose another name for the model.")
        known = manifest.input_kind is not IntensityKind.EIGHT_BIT and manifest.modality is not Modality.UNKNOWN
        if manifest.volumetric or manifest.task is not Task.SEGMENTATION or manifest.labels != (LIVER,) or not known:
            raise BundleError(
                f"The model {manifest.name!r} is not a slice-wise model of the liver in CT or MR, so there are no "
                "phantoms to tune it on."
            )

    def _image(self, manifest: Manifest, number: int) -> tuple[Volume, npt.NDArray[np.bool_]]:
        from LiverMarginLib.phantom import PhantomOptions, Region, liver_target, make_phantom

        region = Region.LIVER
        if number % _WITHOUT_LIVER == _WITHOUT_LIVER - 1:
            region = (Region.CHEST, Region.PELVIS)[number // _WITHOUT_LIVER % 2]
        options = PhantomOptions(shape=self.shape, spacing=self.spacing, modality=manifest.modality, region=region)
        phantom = make_phantom(TUNING_SEEDS + number, options)
        return phantom.volume, liver_target(phantom.labels).array > 0


def _write(bundle: Bundle, tuning: Tuning, training: dict[str, Any], out: Path) -> Path:
    """Write the bundle again with another description; a card that somebody wrote stays."""
    from LiverMarginLib.models.bundle import CARD_FILE, write_bundle
    from LiverMarginLib.models.card import model_card

    manifest = replace(
        bundle.manifest,
        thresholds={**bundle.manifest.thresholds, "mask": tuning.best.threshold},
        postprocessing=tuning.best.postprocessing,
        training=training,
    )
    weights = {name: bundle.read(name) for name in bundle.manifest.weights}
    written = write_bundle(out, manifest, weights)
    card = bundle.folder / CARD_FILE
    if card.is_file() and card.read_text(encoding="utf-8") != model_card(bundle.manifest):
        shutil.copyfile(card, written.folder / CARD_FILE)
        for picture in bundle.folder.glob("*.png"):
            shutil.copyfile(picture, written.folder / picture.name)
    return written.folder
