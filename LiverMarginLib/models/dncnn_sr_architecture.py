"""DnCNN-SR as bundles name it; the network itself is in `LiverMarginLib.models.dncnn_sr`, which needs torch."""

from __future__ import annotations

from LiverMarginLib.models.architectures import Activation, Architecture
from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest import Manifest, ManifestError, Task


def _check_dncnn_sr(manifest: Manifest) -> None:
    parameters = JsonObject(dict(manifest.parameters), "DnCNN-SR's parameters")
    if parameters.integer("scale") not in (1, 2):
        raise ManifestError("DnCNN-SR's scale must be 1 or 2")
    if not 1 <= parameters.integer("width") <= 512:
        raise ManifestError("DnCNN-SR's width must be 1 to 512")
    parameters.finish()
    if manifest.volumetric or manifest.channels != 1 or manifest.task is not Task.DENOISING:
        raise ManifestError("DnCNN-SR denoises slices, one at a time")


DNCNN_SR = Architecture(
    name="dncnn-sr",
    check=_check_dncnn_sr,
    module="LiverMarginLib.models.dncnn_sr:DnCNNSR",
    activation=Activation.IDENTITY,
)
