"""What a user may choose about a segmentation, slice-wise or volumetric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.manifest import FillHoles, Manifest, Postprocessing

_MOST_SAMPLES = 100


class Uncertainty(StrEnum):
    """How unsure the network is of a voxel, from several predictions with dropout left on."""

    ENTROPY = "entropy"
    """Entropy of the mean prediction, divided by the largest there can be: 0 to 1."""
    DEVIATION = "std"
    """Standard deviation over the predictions of the class that is likeliest on average."""


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation; None stands for the model's own default.

    Parameters
    ----------
    batch_size : int, optional
        Slices, or blocks, computed together.
    threshold : float, optional
        Probability in (0, 1) from which a voxel is labelled; see `LiverMarginLib.inference.labelling`.
    largest_component : bool, optional
        Keep only the largest 3-D piece.
    fill_holes : FillHoles, optional
    min_volume_ml : float, optional
        Smaller 3-D pieces are removed.
    slice_range : tuple of int, optional
        First slice, and the one after the last, counted from the inferior end as in the axial view; slices outside
        are left empty. A volumetric network sees these slices alone.
    allow_mismatch : bool
        Go on where the image is not of the kind that the model was trained on.
    overlap : float
        Share by which neighbouring blocks of a volumetric network overlap along each axis, 0 to 0.9.
    samples : int
        Predictions with dropout left on, whose mean is the result and whose spread is the uncertainty; 0 for a single
        one without. Volumetric models by torch only.
    uncertainty : Uncertainty
        What is computed of the samples.
    seed : int
        Of the dropout.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    batch_size: int | None = None
    threshold: float | None = None
    largest_component: bool | None = None
    fill_holes: FillHoles | None = None
    min_volume_ml: float | None = None
    slice_range: tuple[int, int] | None = None
    allow_mismatch: bool = False
    overlap: float = 0.5
    samples: int = 0
    uncertainty: Uncertainty = Uncertainty.ENTROPY
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError("The batch size must be 1 or more.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError("The threshold must lie between 0 and 1.")
        if self.min_volume_ml is not None and not 0 <= self.min_volume_ml < float("inf"):
            raise InputError("The smallest volume that is kept must be zero or more millilitres.")
        if not 0 <= self.overlap <= 0.9:
            raise InputError("The overlap of blocks must lie between 0 and 0.9.")
        if self.samples == 1 or not 0 <= self.samples <= _MOST_SAMPLES:
            raise InputError(f"The number of samples must be 0, or 2 to {_MOST_SAMPLES}.")

    def postprocessing(self, manifest: Manifest) -> Postprocessing:
        """The model's post-processing with the choices made here."""
        chosen: dict[str, Any] = {
            "largest_component": self.largest_component,
            "fill_holes": self.fill_holes,
            "min_volume_ml": self.min_volume_ml,
        }
        return replace(manifest.postprocessing, **{key: value for key, value in chosen.items() if value is not None})

    def slices(self, count: int) -> range:
        """The slices to segment of `count`.

        Raises
        ------
        InputError
            If `slice_range` lies outside of the image.
        """
        first, stop = self.slice_range or (0, count)
        if not 0 <= first < stop <= count:
            raise InputError(
                f"Slices {first} to {stop - 1} are not to be had in this image, which has slices 0 to {count - 1}; "
                "choose among those."
            )
        return range(first, stop)
