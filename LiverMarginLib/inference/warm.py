"""The network of the last job, kept ready for the next one of the same process."""

from __future__ import annotations

from LiverMarginLib.inference.segmenter import Device, Runtime, Segmenter, load_segmenter
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import Manifest

_Key = tuple[Manifest, str, str, int | None]

# One only: two networks at a time may be more than the memory of a device.
_kept: list[tuple[_Key, Segmenter]] = []


def warm_segmenter(
    bundle: Bundle,
    *,
    device: Device | str = Device.AUTO,
    runtime: Runtime | str = Runtime.AUTO,
    threads: int | None = None,
) -> Segmenter:
    """Return the network of `load_segmenter`, which is loaded only if the last one was another.

    Two bundles are the same if their manifests are, which hold the sha256 of the weights.

    Parameters
    ----------
    bundle, device, runtime, threads
        As for `load_segmenter`, which also says what is raised.
    """
    key = (bundle.manifest, str(device), str(runtime), threads)
    if not _kept or _kept[0][0] != key:
        _kept.clear()
        _kept.append((key, load_segmenter(bundle, device=device, runtime=runtime, threads=threads)))
    return _kept[0][1]
