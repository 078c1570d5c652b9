"""Slice-wise networks by ncnn: on a CPU the quickest, in single precision, where it is installed."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, DependencyError, LiverMarginError, technical
from LiverMarginLib.inference.crew import Crew
from LiverMarginLib.inference.devices import available_threads
from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import SAFETENSORS_FILE
from LiverMarginLib.models.row_spans import RowSpans
from LiverMarginLib.models.unet_ncnn import build_unet, build_unet_within

FloatArray = npt.NDArray[np.float32]

# A network for a region that is nearly the whole slice is no quicker than the one for whole slices.
_SMALL_ENOUGH = 0.9

# Which architectures have been written for ncnn, and what each needs.
_NEEDS = {
    "unet": ("ncnn", "safetensors"),
    "mask-rcnn": ("ncnn", "safetensors", "torch", "torchvision"),
}


class NcnnSegmenter:
    """Runs a bundle by ncnn, the slices of a batch side by side.

    Parameters
    ----------
    bundle : Bundle
        One that `why_not_ncnn` has nothing against.
    threads : int, optional
        CPU threads; those that the machine leaves to this process if not given.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        import ncnn

        self._manifest = bundle.manifest
        threads = threads or available_threads()
        self._crew = Crew(threads)
        load = _UNet if bundle.manifest.architecture == "unet" else _load_mask_rcnn
        self._predict: _Predict = load(bundle, threads // self._crew.size)
        self.device = "cpu"
        self.runtime = f"ncnn {ncnn.__version__}"
        self.input_size = bundle.manifest.input_size
        self.classes = len(bundle.manifest.labels)

    @property
    def workers(self) -> int:
        """See `images_side_by_side`."""
        return self._crew.size

    def confined(self, region: npt.NDArray[np.bool_], dark: FloatArray) -> NcnnSegmenter:
        """See `Confinable`: a U-Net gains by it, if there is air enough and anything else."""
        share = RowSpans.of(region).mask().mean()
        if not isinstance(self._predict, _UNet) or not 0 < share <= _SMALL_ENOUGH:
            return self
        other = copy.copy(self)
        other._predict = self._predict.within(region, dark)
        return other

    def predict(self, batch: FloatArray) -> FloatArray:
        """See `Segmenter.predict`."""
        try:
            return self._crew.map(self._predict, batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise BundleError(
                f"The model {self._manifest.name!r} failed by ncnn; choose another runtime, or check the model.",
                technical(error),
            ) from error


def why_not_ncnn(bundle: Bundle) -> LiverMarginError | None:
    """Return why a bundle cannot be run by ncnn here, if it cannot."""
    manifest = bundle.manifest
    needs = _NEEDS.get(manifest.architecture)
    # ncnn has no group normalisation here, and wants channels to begin at multiples of 16 bytes.
    if needs is None or manifest.parameters.get("norm") == "GN" or math.prod(manifest.input_size) % 4:
        return BundleError(f"The model {manifest.name!r} does not run by ncnn; choose another runtime.")
    if not bundle.has(SAFETENSORS_FILE):
        return BundleError(f"The model {manifest.name!r} has no weights for ncnn; choose the runtime onnx.")
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        return DependencyError(
            f"{' and '.join(missing)} must be installed to run this model by ncnn; install livermargin[fast] or choose "
            "another runtime."
        )
    return None


_Predict = Callable[[FloatArray], FloatArray]


class _UNet:
    def __init__(self, bundle: Bundle, threads: int) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            stored = load(bundle.read(SAFETENSORS_FILE))
        except SafetensorError as error:
            raise BundleError(
                f"The weights of the model {bundle.manifest.name!r} are not a valid safetensors file; get it again.",
                technical(error),
            ) from error
        self._weights = {name: array.astype(np.float32) for name, array in stored.items()}
        self._parameters = bundle.manifest.parameters
        self._threads = threads
        height, width = bundle.manifest.input_size
        self._net = build_unet(self._parameters, self._weights, (height, width), threads)

    def __call__(self, images: FloatArray) -> FloatArray:
        return np.stack([self._net(image)[0] for image in images])

    def within(self, region: npt.NDArray[np.bool_], dark: FloatArray) -> _UNet:
        """Return one that is right in the region alone."""
        other = copy.copy(self)
        other._net = build_unet_within(region, dark, self._parameters, self._weights, self._threads)
        return other


def _load_mask_rcnn(bundle: Bundle, threads: int) -> _Predict:
    import torch

    from LiverMarginLib.models.maskrcnn_ncnn import NcnnMaskRCNN

    module: Any = bundle.torch_module()
    network = NcnnMaskRCNN(module, threads)

    def predict(images: FloatArray) -> FloatArray:
        torch.set_num_threads(threads)  # of the calling thread
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return predict
