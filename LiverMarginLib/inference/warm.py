"""The network of the last job, kept ready for the next one of the same process."""

from __future__ import annotations

from pathlib import Path

from LiverMarginLib.inference.model import SegmentationModel, load_model
from LiverMarginLib.inference.segmenter import Device, Precision, Runtime
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import Manifest

_Key = tuple[Manifest, Path, str, str, int | None, str]

# One only: two networks at a time may be more than the memory of a device.
_kept: list[tuple[_Key, SegmentationModel]] = []


def warm_model(
    bundle: Bundle,
    *,
    device: Device | str = Device.AUTO,
    runtime: Runtime | str = Runtime.AUTO,
    threads: int | None = None,
    precision: Precision | str = Precision.SINGLE,
) -> SegmentationModel:
    """Return the network of `load_model`, which is loaded only if the last one was another.

    Two bundles are the same if their manifests are, which hold the sha256 of the weights, and their folders.

    Parameters
    ----------
    bundle, device, runtime, threads, precision
        As for `load_model`, which also says what is raised.
    """
    key = (bundle.manifest, bundle.folder, str(device), str(runtime), threads, str(precision))
    if not _kept or _kept[0][0] != key:
        _kept.clear()
        _kept.append((key, load_model(bundle, device=device, runtime=runtime, threads=threads, precision=precision)))
    return _kept[0][1]
