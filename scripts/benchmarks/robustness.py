"""How models fare on spoilt versions of a scan: other axes, 8 bits, thick slices, noise, a narrow field of view, lungs.

Every version is segmented as a user would have it done, and compared with the reference on the version's own grid;
where a version is refused, the refusal is shown, and the Dice of the result that the user may insist on. Without an
image the scans are phantoms that no training saw.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from LiverMarginLib.volume import AxialView, Geometry, IntensityKind, Modality, Volume, axial_view

THICK_MM, NOISE_HU, MARGIN_MM = 5.0, 40.0, 20.0
WINDOW_HU = (-160.0, 240.0)

Pair = tuple[Volume, np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py robustness`."""
    parser.add_argument("models", nargs="*", default=["unet-ct"], help="names or folders of bundles")
    parser.add_argument("--image", type=Path, help="a scan; phantoms if there is none")
    parser.add_argument("--reference", type=Path, help="its segmentation")
    parser.add_argument("--label", type=int, default=1, help="the liver's value in it")
    parser.add_argument("--phantoms", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every figure here")


def run(options: argparse.Namespace) -> int:
    """Segment all versions with all models and print the Dice of each."""
    from LiverMarginLib.inference.model import load_model
    from LiverMarginLib.models.store import find_bundle

    models = {name: load_model(find_bundle(name), device="cpu") for name in options.models}
    found: dict[str, dict[str, list[float | str]]] = {}
    for volume, liver in _scans(options):
        for version, change in VERSIONS.items():
            made = change(volume, liver)
            for name, model in models.items():
                answer = "cannot be made of this scan" if made is None else _dice(model, *made)
                found.setdefault(version, {}).setdefault(name, []).append(answer)
    print(f"\n{'version':28}" + "".join(f"{name:>28}" for name in models))
    for version, answers in found.items():
        print(f"{version:28}" + "".join(f"{_in_words(answers[name]):>28}" for name in models))
    for version, answers in found.items():
        for name, values in answers.items():
            for text in dict.fromkeys(value for value in values if isinstance(value, str)):
                print(f"{version}, {name}: {text}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _in_words(values: list[float | str]) -> str:
    numbers = [value for value in values if not isinstance(value, str)]
    if not numbers:
        return "see below"
    return f"{statistics.mean(numbers):.3f} (worst {min(numbers):.3f}, n = {len(numbers)})"


def _dice(model: object, volume: Volume, liver: np.ndarray) -> float | str:
    from LiverMarginLib.errors import InputError
    from LiverMarginLib.inference.options import SegmentOptions
    from LiverMarginLib.metrics.overlap import dice

    try:
        labels = model.segment(volume).labels  # type: ignore[attr-defined]
    except InputError as error:
        labels = model.segment(volume, SegmentOptions(allow_mismatch=True)).labels  # type: ignore[attr-defined]
        return f"{error.message} (allowed: Dice {dice(liver, labels.array == 1):.3f})"
    found = labels.array == 1
    if not liver.any():
        return f"no liver is there; {labels.volume_ml(1):.1f} ml were found"
    return dice(liver, found)


def _scans(options: argparse.Namespace) -> Iterator[Pair]:
    if options.image is not None:
        from LiverMarginLib.io.readers import read_labels, read_volume
        from LiverMarginLib.resampling import resample_labels

        volume = read_volume(options.image)
        labels = read_labels(options.reference)
        if not labels.geometry.agrees_with(volume.geometry):
            labels = resample_labels(labels, volume.geometry)
        yield volume, labels.array == options.label
        return
    from LiverMarginLib.jobs.cohort import TEST_SEEDS
    from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom

    for seed in range(TEST_SEEDS, TEST_SEEDS + options.phantoms):
        phantom = make_phantom(seed, PhantomOptions(shape=(88, 256, 256), spacing=(3.0, 1.55, 1.55)))
        yield phantom.volume, liver_target(phantom.labels).array > 0


def _in_view(volume: Volume, liver: np.ndarray) -> tuple[np.ndarray, np.ndarray, AxialView]:
    view = axial_view(volume.geometry)
    return view.to_view(volume.array), view.to_view(liver), view


def _of_view(volume: Volume, view: AxialView, image: np.ndarray, start: tuple[int, int, int], step: int = 1) -> Volume:
    """Make a volume of a part of the axial view; `step` slices have become one."""
    matrix = view.geometry.ijk_to_ras.copy()
    k, j, i = start
    matrix[:3, 3] = (matrix @ (i, j, k + (step - 1) / 2, 1))[:3]
    matrix[:3, 2] *= step
    return replace(volume, array=np.ascontiguousarray(image), geometry=Geometry(image.shape, matrix))


def shuffled(volume: Volume, liver: np.ndarray) -> Pair:
    """Store sagittal slices, from left to right and upside down."""
    order = (2, 0, 1)
    shape = volume.array.shape
    new = tuple(shape[axis] for axis in order)
    # Index (k, j, i) of the new array comes from these axes of the old one; the last one runs backwards.
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for place, axis in enumerate(order):
        to_old[2 - axis, 2 - place] = 1
    last = order[2]
    to_old[2 - last, 0] = -1
    to_old[2 - last, 3] = shape[last] - 1
    geometry = Geometry(new, volume.geometry.ijk_to_ras @ to_old)
    image, mask = (np.ascontiguousarray(a.transpose(order)[:, :, ::-1]) for a in (volume.array, liver))
    return replace(volume, array=image, geometry=geometry), mask


def eight_bit(volume: Volume, liver: np.ndarray) -> Pair:
    """Window the image to grey values, as a screenshot or a JPEG holds them."""
    low, high = WINDOW_HU
    grey = np.clip((volume.array.astype(np.float32) - low) / (high - low), 0, 1) * 255
    return replace(volume, array=grey.round().astype(np.uint8), intensity=IntensityKind.EIGHT_BIT), liver


def thick(volume: Volume, liver: np.ndarray) -> Pair | None:
    """Average neighbouring slices to about 5 mm."""
    image, mask, view = _in_view(volume, liver)
    step = round(THICK_MM / view.geometry.spacing[0])
    count = len(image) // max(step, 1)
    if step < 2 or count == 0:
        return None
    blocks = image[: count * step].reshape(count, step, *image.shape[1:])
    shares = mask[: count * step].reshape(count, step, *mask.shape[1:]).mean(axis=1)
    made = _of_view(volume, view, blocks.mean(axis=1).astype(np.float32), (0, 0, 0), step)
    return made, shares >= 0.5


def noisy(volume: Volume, liver: np.ndarray) -> Pair:
    """Add white noise, as a scan of a tenth of the dose has it."""
    noise = np.random.default_rng(0).normal(0, NOISE_HU, volume.array.shape)
    return replace(volume, array=(volume.array + noise).astype(np.float32)), liver


def cropped(volume: Volume, liver: np.ndarray) -> Pair | None:
    """Cut the field of view down to the liver and a margin."""
    image, mask, view = _in_view(volume, liver)
    if not mask.any():
        return None
    parts = []
    for axis, spacing in ((1, view.geometry.spacing[1]), (2, view.geometry.spacing[2])):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = round(MARGIN_MM / spacing)
        parts.append(slice(max(0, where[0] - margin), where[-1] + margin + 1))
    part = (slice(None), *parts)
    return _of_view(volume, view, image[part], (0, parts[0].start, parts[1].start)), mask[part]


def lungs(volume: Volume, liver: np.ndarray) -> Pair | None:
    """Keep the slices above the liver."""
    image, mask, view = _in_view(volume, liver)
    where = np.flatnonzero(mask.any(axis=(1, 2)))
    first = int(where[-1]) + 1 if len(where) else 0
    if len(image) - first < 3:
        return None
    return _of_view(volume, view, image[first:], (first, 0, 0)), mask[first:]


def called_mr(volume: Volume, liver: np.ndarray) -> Pair:
    """Say that it is MR, which a CT model must not take without a word."""
    return replace(volume, modality=Modality.MR, intensity=IntensityKind.ARBITRARY), liver


VERSIONS: dict[str, Callable[[Volume, np.ndarray], Pair | None]] = {
    "as it is": lambda volume, liver: (volume, liver),
    "other axes": shuffled,
    "8 bits": eight_bit,
    f"slices of {THICK_MM:g} mm": thick,
    f"noise of {NOISE_HU:g} HU": noisy,
    f"cropped to {MARGIN_MM:g} mm": cropped,
    "above the liver alone": lungs,
    "called MR": called_mr,
}
