"""What a model bundle says about itself: `Manifest`, the content of ``model.json``.

A manifest is checked as a whole when it is made, whether by a trainer or from a file, so that everything downstream
can rely on it. This module needs neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from LiverMarginLib.errors import BundleError
from LiverMarginLib.jsonable import loads
from LiverMarginLib.models.intensity_fields import ModalityInput, Window
from LiverMarginLib.models.json_reader import JsonObject, JsonProblem
from LiverMarginLib.models.manifest_error import ManifestError
from LiverMarginLib.models.volumetric_fields import Localiser, Normalisation, NormalisationKind, SpacingUnit
from LiverMarginLib.preprocessing import MOST_CONTEXT, SliceContext
from LiverMarginLib.terminology import Code, Segment, Terminology
from LiverMarginLib.volume import IntensityKind, Modality

SCHEMA_VERSION = 1
SAFETENSORS_FILE = "weights.safetensors"
ONNX_FILE = "model.onnx"
WEIGHT_FILES = (SAFETENSORS_FILE, ONNX_FILE)

_Value = TypeVar("_Value")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Larger is a mistake or an attack: such a network input would not fit into any machine's memory.
_MAX_INPUT_VOXELS = 4096 * 4096


class Task(StrEnum):
    """What a network's output is."""

    SEGMENTATION = "segmentation"
    DENOISING = "denoising"


class FillHoles(StrEnum):
    """Which holes of the segmented organ are filled."""

    NONE = "none"
    SLICE = "slice"
    VOLUME = "volume"


@dataclass(frozen=True)
class Postprocessing:
    """What is done to a mask after thresholding.

    Parameters
    ----------
    largest_component : bool
        Keep only the largest 3-D piece.
    fill_holes : FillHoles
    min_volume_ml : float
        Smaller 3-D pieces are removed.
    """

    largest_component: bool = False
    fill_holes: FillHoles = FillHoles.NONE
    min_volume_ml: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_volume_ml) and self.min_volume_ml >= 0):
            raise ManifestError("the smallest volume that is kept must be zero or more millilitres")


@dataclass(frozen=True)
class Manifest:
    """Everything about a model that is not its weights.

    Parameters
    ----------
    name : str
        Letters, digits, ``.``, ``_`` and ``-``; what a user types after ``--model``.
    version : str
        The model's own version, such as "1.0.0".
    architecture : str
        Key of `LiverMarginLib.models.architectures`.
    parameters : mapping
        Arguments of the architecture; checked by it.
    task : Task
    modality : Modality
        What the network was trained on.
    input_kind : IntensityKind
        What the voxel values of its training images meant.
    window : Window
    input_size : tuple of int
        (h, w) of a slice-wise network, (k, j, i) of a volumetric one's patch.
    labels : tuple of Segment
        One for each output channel of a segmentation network (background not counted), in the channels' order.
    context_slices : int
        Neighbours on either side that a slice-wise network sees as further channels.
    context_mm : float, optional
        Their distance, see `SliceContext`.
    spacing : tuple of float, optional
        Voxel spacing (k, j, i) to which a volumetric network's input is resampled.
    spacing_unit : SpacingUnit
        What `spacing` counts: millimetres, or the image's own voxels.
    normalisation : Normalisation
        What becomes of the windowed intensities.
    localiser : Localiser, optional
        The model that finds the organ for a volumetric one.
    other_inputs : tuple of ModalityInput
        The further modalities that a volumetric network was trained on; what is said of intensities and localiser
        elsewhere is for `modality`.
    thresholds : mapping of str to float
        In (0, 1). ``mask`` is the probability from which a voxel is labelled; others belong to the architecture
        (``score`` of an instance). Without ``mask`` it is 0.5, and among the classes of a softmax the likeliest wins.
    postprocessing : Postprocessing
        Defaults of the model; options of a job override them.
    weights : mapping of str to str
        sha256 of each weights file, lower-case hexadecimal. Empty before the bundle is saved.
    training : mapping
        Data, steps, scores: free, JSON-serialisable, without patient identity.
    licence : str
        SPDX identifier of the weights' licence.
    description : str
        One or two sentences for the model list and the card.

    Raises
    ------
    BundleError
        If anything is missing, of the wrong kind, out of range or contradictory.
    """

    name: str
    version: str
    architecture: str
    modality: Modality
    input_kind: IntensityKind
    window: Window
    labels: tuple[Segment, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    task: Task = Task.SEGMENTATION
    input_size: tuple[int, ...] = (512, 512)
    context_slices: int = 0
    context_mm: float | None = None
    spacing: tuple[float, float, float] | None = None
    spacing_unit: SpacingUnit = SpacingUnit.MM
    normalisation: Normalisation = field(default_factory=Normalisation)
    localiser: Localiser | None = None
    other_inputs: tuple[ModalityInput, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    weights: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    description: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        self._check_identity()
        self._check_input()
        self._check_output()
        for file_name, digest in self.weights.items():
            if file_name not in WEIGHT_FILES:
                raise ManifestError(f"its weights must be in {' or '.join(WEIGHT_FILES)}, not in {file_name!r}")
            if not _SHA256.fullmatch(digest):
                raise ManifestError(f"the sha256 of {file_name} is not 64 hexadecimal digits")
        try:
            json.dumps([dict(self.parameters), dict(self.training)], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ManifestError("its parameters and training record must be plain JSON with finite numbers") from error

    def _check_identity(self) -> None:
        check_schema_version(self.schema_version)
        if not _NAME.fullmatch(self.name):
            raise ManifestError("its name must be 1 to 64 letters, digits, dots, dashes or underscores")
        if not _VERSION.fullmatch(self.version):
            raise ManifestError("its version must look like 1.0.0")
        if not _NAME.fullmatch(self.architecture):
            raise ManifestError("its architecture is not a name")

    def _check_input(self) -> None:
        if len(self.input_size) not in (2, 3) or min(self.input_size) < 1:
            raise ManifestError("input_size must be two or three positive numbers")
        if math.prod(self.input_size) > _MAX_INPUT_VOXELS:
            raise ManifestError(f"an input of {' x '.join(map(str, self.input_size))} is absurdly large")
        if not 0 <= self.context_slices <= MOST_CONTEXT:
            raise ManifestError(f"context_slices must be 0 to {MOST_CONTEXT}")
        if self.context_mm is not None and not (self.context_slices and 0 < self.context_mm < 100):
            raise ManifestError("context_mm must lie above 0 and below 100, and belongs to context_slices")
        if self.volumetric != (self.spacing is not None):
            raise ManifestError("a spacing is needed by volumetric models and by those alone")
        if self.spacing is not None and not all(0 < s < 100 for s in self.spacing):
            raise ManifestError("spacing must be three lengths in mm above 0 and below 100")
        if self.volumetric and self.context_slices:
            raise ManifestError("context_slices belong to slice-wise models")
        if not self.volumetric and (self.localiser is not None or self.spacing_unit is not SpacingUnit.MM):
            raise ManifestError("a localiser and a spacing in voxels belong to volumetric models")
        if self.spacing_unit is SpacingUnit.VOXEL and not all(s == int(s) for s in self.spacing or ()):
            raise ManifestError("a spacing in voxels must be whole numbers")
        if self.task is Task.DENOISING and self.normalisation.kind is not NormalisationKind.UNIT:
            raise ManifestError("a denoising model sees the window as [0, 1]")
        if any(item.localiser is not None and item.localiser.model == self.name for item in self.inputs):
            raise ManifestError("a model cannot be its own localiser")
        if self.other_inputs and (not self.volumetric or Modality.UNKNOWN in self.modalities):
            raise ManifestError("further inputs belong to volumetric models that name their modality")
        if len(set(self.modalities)) != len(self.modalities):
            raise ManifestError("each modality of its inputs may be named once")

    def _check_output(self) -> None:
        values = [segment.label for segment in self.labels]
        if self.task is Task.SEGMENTATION and not values:
            raise ManifestError("a segmentation model needs at least one label")
        if self.task is Task.DENOISING and values:
            raise ManifestError("a denoising model has no labels")
        if len(set(values)) != len(values) or not all(1 <= value <= 255 for value in values):
            raise ManifestError("label values must be different and from 1 to 255")
        for key, value in self.thresholds.items():
            if not 0 < value < 1:
                raise ManifestError(f"the threshold {key!r} must lie between 0 and 1")

    @property
    def volumetric(self) -> bool:
        """Whether the network sees blocks of voxels instead of slices."""
        return len(self.input_size) == 3

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """All modalities that the network was trained on."""
        return tuple(item.modality for item in self.inputs)

    @property
    def inputs(self) -> tuple[ModalityInput, ...]:
        """How it takes the images of each of these."""
        own = ModalityInput(self.modality, self.input_kind, self.window, self.normalisation, self.localiser)
        return (own, *self.other_inputs)

    def seen_as(self, modality: Modality) -> Manifest:
        """The manifest of the same network for images of one of its modalities alone."""
        item = next(item for item in self.inputs if item.modality is modality)
        fields = {name: getattr(item, name) for name in ("input_kind", "window", "normalisation", "localiser")}
        return dataclasses.replace(self, modality=modality, other_inputs=(), **fields)

    @property
    def context(self) -> SliceContext:
        """Which slices the network sees together."""
        return SliceContext(self.context_slices, self.context_mm)

    @property
    def channels(self) -> int:
        """Number of input channels: the slice and its context."""
        return self.context.channels

    @property
    def mask_threshold(self) -> float:
        """Probability from which a voxel is labelled."""
        return self.thresholds.get("mask", 0.5)

    def to_json(self) -> str:
        """The text of ``model.json``."""
        values: dict[str, Any] = {
            "schema_version": self.schema_version,
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "architecture": self.architecture,
            "parameters": dict(self.parameters),
            "task": self.task.value,
            "modality": self.modality.value,
            "labels": [_segment_to_json(segment) for segment in self.labels],
            "input_kind": self.input_kind.value,
            "window": self.window.to_json(),
            "input_size": list(self.input_size),
            "context_slices": self.context_slices,
            "spacing": None if self.spacing is None else list(self.spacing),
            "thresholds": dict(self.thresholds),
            "postprocessing": {
                "largest_component": self.postprocessing.largest_component,
                "fill_holes": self.postprocessing.fill_holes.value,
                "min_volume_ml": self.postprocessing.min_volume_ml,
            },
            "weights": dict(self.weights),
            "training": dict(self.training),
            "licence": self.licence,
        }
        # Optional entries, so that a model that does without them can still be read by older versions.
        if self.context_mm is not None:
            values["context_mm"] = self.context_mm
        if self.spacing_unit is not SpacingUnit.MM:
            values["spacing_unit"] = self.spacing_unit.value
        if self.normalisation != Normalisation():
            values["normalisation"] = self.normalisation.to_json()
        if self.localiser is not None:
            values["localiser"] = self.localiser.to_json()
        if self.other_inputs:
            values["other_inputs"] = [item.to_json() for item in self.other_inputs]
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read and check the text of ``model.json``.

        Raises
        ------
        BundleError
            With one sentence, whatever is wrong with it.
        """
        try:
            root = JsonObject(loads(text), "it")
            # The version comes first: a newer schema may look different in every other respect.
            check_schema_version(root.integer("schema_version"))
            return _read_manifest(root)
        except JsonProblem as problem:
            raise ManifestError(str(problem)) from problem
        except ValueError as error:
            raise ManifestError("it is not valid JSON") from error


def check_schema_version(version: int) -> None:
    """Raise `BundleError` unless this LiverMargin reads manifests of `version`."""
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"The model's description has schema version {version} but this LiverMargin reads version "
            f"{SCHEMA_VERSION}; update LiverMargin or get a model made for this version."
        )


def _read_manifest(root: JsonObject) -> Manifest:
    post = root.object("postprocessing")
    spacing = None if root.null("spacing") else root.numbers("spacing")
    if spacing is not None and len(spacing) != 3:
        raise JsonProblem("'spacing' is not three numbers")
    manifest = Manifest(
        name=root.text("name"),
        version=root.text("version"),
        architecture=root.text("architecture"),
        modality=root.choice("modality", Modality),
        input_kind=root.choice("input_kind", IntensityKind),
        window=Window.from_json(root.object("window")),
        labels=tuple(_read_segment(JsonObject(values, "a label")) for values in root.array("labels")),
        parameters=root.mapping("parameters"),
        task=root.choice("task", Task),
        input_size=root.integers("input_size"),
        context_slices=root.integer("context_slices"),
        context_mm=root.number("context_mm") if root.has("context_mm") else None,
        spacing=spacing,  # type: ignore[arg-type]
        spacing_unit=root.choice("spacing_unit", SpacingUnit) if root.has("spacing_unit") else SpacingUnit.MM,
        normalisation=(
            Normalisation.from_json(root.object("normalisation")) if root.has("normalisation") else Normalisation()
        ),
        localiser=Localiser.from_json(root.object("localiser")) if root.has("localiser") else None,
        other_inputs=tuple(
            ModalityInput.from_json(JsonObject(values, "a further input")) for values in root.array("other_inputs")
        )
        if root.has("other_inputs")
        else (),
        thresholds=_read_entries(root.mapping("thresholds"), JsonObject.number),
        postprocessing=Postprocessing(
            post.flag("largest_component"), post.choice("fill_holes", FillHoles), post.number("min_volume_ml")
        ),
        weights=_read_entries(root.mapping("weights"), JsonObject.text),
        training=root.mapping("training"),
        licence=root.text("licence"),
        description=root.text("description"),
    )
    for part in (post, root):
        part.finish()
    return manifest


def _read_entries(values: Mapping[str, Any], take: Callable[[JsonObject, str], _Value]) -> dict[str, _Value]:
    entries = JsonObject(values, "an entry")
    return {key: take(entries, key) for key in values}


def _read_segment(values: JsonObject) -> Segment:
    colour = values.integers("colour")
    if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
        raise JsonProblem("a label's colour is not three numbers from 0 to 255")
    terminology = None if values.null("terminology") else _read_terminology(values.object("terminology"))
    segment = Segment(values.integer("label"), values.text("name"), colour, terminology)  # type: ignore[arg-type]
    values.finish()
    return segment


def _read_terminology(values: JsonObject) -> Terminology:
    category, kind = _read_code(values.object("category")), _read_code(values.object("type"))
    region = None if values.null("region") else _read_code(values.object("region"))
    values.finish()
    return Terminology(category, kind, region)


def _read_code(values: JsonObject) -> Code:
    code = Code(values.text("value"), values.text("meaning"), values.text("scheme"))
    values.finish()
    return code


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    return {
        "label": segment.label,
        "name": segment.name,
        "colour": list(segment.colour),
        "terminology": None if segment.terminology is None else dataclasses.asdict(segment.terminology),
    }
