"""The model card of a bundle: what a person should know before using the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from LiverMarginLib.models.architectures import Activation, find_architecture
from LiverMarginLib.models.intensity_fields import ModalityInput, Window, WindowUnit
from LiverMarginLib.models.manifest import Manifest, Task
from LiverMarginLib.models.volumetric_fields import Localiser, Normalisation, NormalisationKind, SpacingUnit
from LiverMarginLib.preprocessing import SliceContext

_LONG_LIST = 4


def model_card(manifest: Manifest) -> str:
    """Write the model card as Markdown text.

    Parameters
    ----------
    manifest : Manifest

    Returns
    -------
    str
    """
    sections = [
        f"# {manifest.name} {manifest.version}",
        manifest.description,
        "For research and teaching. This is not a medical device: do not use it for diagnosis or treatment.",
        "## What it does",
        _bullets(
            {
                "Task": manifest.task.value,
                "Labels": ", ".join(f"{segment.label} = {segment.name}" for segment in manifest.labels),
                "Architecture": f"{manifest.architecture} {json.dumps(dict(manifest.parameters))}",
                "Threshold": _threshold(manifest),
                "Post-processing": _postprocessing(manifest),
            }
        ),
        "## What it expects",
        _bullets(
            {
                "Modality": ", ".join(modality.value for modality in manifest.modalities),
                "Voxel values": manifest.input_kind.value,
                "Intensity window": _window(manifest.window),
                "Network input": " x ".join(map(str, manifest.input_size)) + _context(manifest.context),
                "Voxel spacing": _spacing(manifest),
                "Normalisation": _normalisation(manifest.normalisation),
                "Localiser": _localiser(manifest.localiser),
                **{f"For {item.modality} instead": _other_input(item) for item in manifest.other_inputs},
            }
        ),
        "## How it was trained",
        _bullets(manifest.training) or "Not recorded.",
        "## Licence",
        manifest.licence or "Not stated.",
        "## Files",
        _bullets({name: f"sha256 {digest}" for name, digest in manifest.weights.items()}),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _bullets(values: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}- {key}:", _bullets(value, indent + "  ")]
        elif isinstance(value, list | tuple) and len(value) > _LONG_LIST:
            lines.append(f"{indent}- {key}: {len(value)}, listed in model.json")
        elif value not in ("", None):
            lines.append(f"{indent}- {key}: {value}")
    return "\n".join(line for line in lines if line)


def _other_input(item: ModalityInput) -> dict[str, str]:
    return {
        "Voxel values": item.input_kind.value,
        "Intensity window": _window(item.window),
        "Normalisation": _normalisation(item.normalisation),
        "Localiser": _localiser(item.localiser),
    }


def _localiser(localiser: Localiser | None) -> str:
    if localiser is None:
        return ""
    kept = "; its organ is part of the result" if localiser.keep_organ else ""
    return f"{localiser.model}, {localiser.margin_mm:g} mm around the organ{kept}"


def _context(context: SliceContext) -> str:
    if not context.slices:
        return ""
    distance = "" if context.mm is None else f", {context.mm:g} mm apart"
    return f", with {context.slices} further slice{'s'[: context.slices - 1]} on either side{distance}"


def _window(window: Window) -> str:
    low, high = f"{window.low:g}", f"{window.high:g}"
    if window.unit is WindowUnit.PERCENTILE:
        return f"percentiles {low} to {high} of the volume"
    return f"{low} to {high}"


def _threshold(manifest: Manifest) -> str:
    if manifest.task is not Task.SEGMENTATION:
        return ""
    softmax = find_architecture(manifest.architecture).activation is Activation.SOFTMAX
    return "the likeliest class" if softmax and "mask" not in manifest.thresholds else f"{manifest.mask_threshold:g}"


def _spacing(manifest: Manifest) -> str:
    if manifest.spacing is None:
        return ""
    unit = "mm" if manifest.spacing_unit is SpacingUnit.MM else "voxels of the image, averaged"
    return f"{' x '.join(f'{s:g}' for s in manifest.spacing)} {unit}"


def _normalisation(normalisation: Normalisation) -> str:
    match normalisation.kind:
        case NormalisationKind.UNIT:
            return ""
        case NormalisationKind.NONE:
            return "none: values as they are"
    if normalisation.mean is None:
        return "z-score of the image"
    return f"less {normalisation.mean:g}, divided by {normalisation.deviation:g}"


def _postprocessing(manifest: Manifest) -> str:
    defaults = manifest.postprocessing
    steps = [
        "largest piece" if defaults.largest_component else "",
        f"pieces of at least {defaults.min_volume_ml:g} ml" if defaults.min_volume_ml else "",
        f"holes filled by {defaults.fill_holes.value}" if defaults.fill_holes.value != "none" else "",
    ]
    return ", ".join(step for step in steps if step)
