"""ONNX Runtime behind the `Segmenter` contract, and which runtime and device a dense network gets."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, DependencyError, InputError, LiverMarginError, ResourceError, technical
from LiverMarginLib.inference.crew import Crew
from LiverMarginLib.inference.devices import accelerator_is_likely, available_threads, prove_torch_device
from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.inference.ncnn_backend import NcnnSegmenter, why_not_ncnn
from LiverMarginLib.inference.segmenter import Device, Precision, Runtime, Segmenter, cannot_run
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import ONNX_FILE, SAFETENSORS_FILE
from LiverMarginLib.models.onnx_guard import check_graph
from LiverMarginLib.models.shared_weights import shared_tensors

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)


class OnnxSegmenter:
    """Runs a bundle by ONNX Runtime, without torch.

    On a CPU the slices of a batch are computed side by side, each by threads of its own: no thread waits for another
    at every layer, which pays most where other programs are busy too. The result is the same, bit for bit.

    Parameters
    ----------
    bundle : Bundle
        With ``model.onnx``.
    device : str
        "cpu" or "cuda".
    threads : int, optional
        CPU threads; those that the machine leaves to this process if not given.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        import onnxruntime

        self._bundle = bundle
        self._manifest = bundle.manifest
        self._threads = threads or available_threads()
        self._crew = Crew(1 if device != "cpu" or bundle.manifest.volumetric else self._threads)
        self._session = onnx_session(bundle, device, self._threads // self._crew.size)
        self._alone = self._session if self._crew.size == 1 else None
        self._used = False
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        expected = [bundle.manifest.channels, *bundle.manifest.input_size]
        if len(inputs) != 1 or not outputs or inputs[0].shape[1:] != expected:
            raise BundleError(
                f"The ONNX graph of the model {bundle.manifest.name!r} does not take the input that its description "
                "says; get the model again from its source."
            )
        self._input = inputs[0].name
        self.device = device
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.input_size = bundle.manifest.input_size
        self.classes = len(bundle.manifest.labels)

    @property
    def workers(self) -> int:
        """See `images_side_by_side`."""
        return self._crew.size

    def predict(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Segmenter.predict`."""
        session = self._session_for(len(batch))

        def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            output: npt.NDArray[np.float32] = session.run(None, {self._input: images})[0]
            return output

        try:
            output = run(batch) if session is self._alone else self._crew.map(run, batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise cannot_run(self._manifest, self.device, error) from error
        if output.shape != (len(batch), self.classes, *self.input_size):
            raise BundleError(
                f"The ONNX graph of the model {self._manifest.name!r} does not give the output that its description "
                "says; get the model again from its source."
            )
        return output

    def _session_for(self, count: int) -> onnxruntime.InferenceSession:
        # Whoever begins with a single slice goes on with single slices; the odd one at a volume's end is not worth it.
        if count == 1 and not self._used and self._alone is None:
            self._alone = onnx_session(self._bundle, self.device, self._threads)
        self._used = True
        return self._alone if count == 1 and self._alone is not None else self._session


def onnx_session(bundle: Bundle, device: str = "cpu", threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open a bundle's ONNX graph.

    Graph and weights are given to ONNX Runtime as the bytes whose sha256 was checked, not as paths: so they can't be
    exchanged in between, and no other file is opened.

    Parameters
    ----------
    bundle : Bundle
    device : str
        "cpu" or "cuda".
    threads : int, optional

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    BundleError
        If the bundle has no graph, or it is not one that ONNX Runtime can use.
    ResourceError
        If the device refuses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    options.log_severity_level = 4  # its errors become exceptions; printed as well, they would disturb the progress
    providers = ["CUDAExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    content = bundle.read(ONNX_FILE)
    shared = check_graph(content)
    weights = shared_tensors(shared, bundle.read(SAFETENSORS_FILE)) if shared else {}
    try:
        if weights:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
            options.add_external_initializers(list(weights), values)
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        if is_out_of_memory(error):
            raise ResourceError(
                f"There is not enough memory on {device} for the model; choose the device cpu.", technical(error)
            ) from error
        raise BundleError(
            f"The ONNX graph of the model {bundle.manifest.name!r} cannot be loaded; get the model again from its "
            "source, or update onnxruntime.",
            technical(error),
        ) from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ResourceError("ONNX Runtime cannot use the CUDA device here; choose the device auto or cpu.")
    return session


def load_dense(
    bundle: Bundle, *, device: Device, runtime: Runtime, threads: int | None, precision: Precision
) -> Segmenter:
    """Choose runtime and device for a dense network; see `LiverMarginLib.inference.segmenter.load_segmenter`."""
    if precision is Precision.HALF:
        if runtime not in (Runtime.AUTO, Runtime.TORCH):
            raise InputError(
                f"The runtime {runtime.value} computes in single precision alone; choose the runtime torch for half "
                "precision, or the precision single."
            )
        if problem := _why_not_torch(bundle):
            raise type(problem)(
                f"Half precision is computed by torch, which cannot run the model {bundle.manifest.name!r} here; "
                "choose the precision single.",
                problem.message,
            )
        runtime = Runtime.TORCH
    unusable = {
        Runtime.TORCH: _why_not_torch(bundle),
        Runtime.ONNX: _why_not_onnx(bundle),
        Runtime.NCNN: why_not_ncnn(bundle),
    }
    if runtime is not Runtime.AUTO:
        if problem := unusable[runtime]:
            raise problem
        unusable = {other: unusable[other] for other in (runtime,)}
    usable = [candidate for candidate, problem in unusable.items() if problem is None]
    if not usable:
        raise unusable[Runtime.ONNX] or unusable[Runtime.TORCH]  # type: ignore[misc]

    if device is not Device.CPU and (device is not Device.AUTO or accelerator_is_likely()):
        segmenter, reasons = _on_accelerator(bundle, device, usable, precision)
        if segmenter is not None:
            return segmenter
        if device is not Device.AUTO:
            raise ResourceError(
                f"The device {device.value} cannot be used here ({reasons}); choose the device auto or cpu."
            )
        logger.info("No accelerator is used: %s", reasons)
    if Runtime.NCNN in usable:
        return NcnnSegmenter(bundle, threads)
    if Runtime.ONNX in usable:
        return OnnxSegmenter(bundle, "cpu", threads)
    return _by_torch(bundle, "cpu", threads, precision)


def _by_torch(bundle: Bundle, device: str, threads: int | None, precision: Precision) -> Segmenter:
    from LiverMarginLib.inference.torch_backend import TorchSegmenter

    return TorchSegmenter(bundle, device, threads, precision)


def _on_accelerator(
    bundle: Bundle, device: Device, usable: list[Runtime], precision: Precision
) -> tuple[Segmenter | None, str]:
    reasons = []
    names = [device.value] if device is not Device.AUTO else [Device.CUDA.value, Device.MPS.value]
    for name in names:
        if Runtime.TORCH in usable:
            reason = prove_torch_device(name)
            try:
                if not reason:
                    return _by_torch(bundle, name, None, precision), ""
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = "its memory is full"
            reasons.append(f"torch on {name}: {reason}")
        if Runtime.ONNX in usable and name == Device.CUDA:
            import onnxruntime

            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                reasons.append("this onnxruntime is CPU only")
                continue
            try:
                segmenter = OnnxSegmenter(bundle, name)
                shape = (1, bundle.manifest.channels, *segmenter.input_size)
                segmenter.predict(np.zeros(shape, np.float32))
                return segmenter, ""
            except Exception as error:
                reasons.append(f"onnxruntime on {name}: {technical(error)}")
    return None, "; ".join(reasons)


def _why_not_torch(bundle: Bundle) -> LiverMarginError | None:
    if not bundle.has(SAFETENSORS_FILE) or bundle.architecture.module is None:
        return BundleError(f"The model {bundle.manifest.name!r} has no weights for torch; choose the runtime onnx.")
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        return DependencyError(
            f"{' and '.join(missing)} must be installed to run this model by torch; install livermargin[train] or "
            "choose the runtime onnx."
        )
    return None


def _why_not_onnx(bundle: Bundle) -> LiverMarginError | None:
    if not bundle.has(ONNX_FILE):
        return BundleError(f"The model {bundle.manifest.name!r} has no ONNX graph; choose the runtime torch.")
    if importlib.util.find_spec("onnxruntime") is None:
        return DependencyError(
            "onnxruntime must be installed to run this model without torch; pip install onnxruntime."
        )
    return None
