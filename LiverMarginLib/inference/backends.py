"""Dense networks (logits for each pixel and label) behind the `Segmenter` contract, by torch or ONNX Runtime."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, DependencyError, LiverMarginError, ResourceError, technical
from LiverMarginLib.inference.crew import Crew
from LiverMarginLib.inference.devices import accelerator_is_likely, available_threads, prove_torch_device
from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.inference.ncnn_backend import NcnnSegmenter, why_not_ncnn
from LiverMarginLib.inference.segmenter import Device, Runtime, Segmenter
from LiverMarginLib.models.architectures import Activation
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import ONNX_FILE, SAFETENSORS_FILE, Manifest
from LiverMarginLib.models.onnx_guard import check_graph
from LiverMarginLib.models.shared_weights import shared_tensors

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)


class TorchSegmenter:
    """Runs a bundle by torch.

    Parameters
    ----------
    bundle : Bundle
        With ``weights.safetensors``.
    device : str
        "cpu", "cuda" or "mps".
    threads : int, optional
        CPU threads, for the whole process, as torch has it; torch's own choice if not given.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        import torch

        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        self._manifest = bundle.manifest
        self._activation = bundle.architecture.activation
        # Channels last is about twice as fast on a CPU and on CUDA's tensor cores; MPS has no kernels for it.
        last = torch.channels_last_3d if bundle.manifest.volumetric else torch.channels_last
        self._memory_format = torch.contiguous_format if device == "mps" else last
        self._module = bundle.torch_module().to(device).to(memory_format=self._memory_format)  # type: ignore[call-overload]
        self.device = device
        self.runtime = f"torch {torch.__version__}"
        self.input_size = bundle.manifest.input_size
        self.classes = len(bundle.manifest.labels)

    def predict(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Segmenter.predict`."""
        import torch

        try:
            with torch.inference_mode():
                image = torch.from_numpy(batch).to(device=self.device, memory_format=self._memory_format)
                output = self._module(image)
                if self._activation is Activation.SIGMOID:
                    output = torch.sigmoid_(output)
                elif self._activation is Activation.SOFTMAX:
                    output = torch.softmax(output, dim=1)[:, 1:]
                return output.float().contiguous().cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error):
                raise _cannot_run(self._manifest, self.device, error) from error
        # The failed attempt's tensors are free only now that its traceback is gone.
        if self.device == "cuda":
            torch.cuda.empty_cache()
        elif self.device == "mps":
            torch.mps.empty_cache()
        raise MemoryError(f"out of memory on {self.device}")

    @contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """See `DropoutSampler.dropout`. Normalisation keeps to the statistics of the training."""
        import torch
        from torch.nn.modules.dropout import _DropoutNd

        layers = [module for module in self._module.modules() if isinstance(module, _DropoutNd)]
        devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                for layer in layers:
                    layer.eval()


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
            raise _cannot_run(self._manifest, self.device, error) from error
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


def load_dense(bundle: Bundle, *, device: Device, runtime: Runtime, threads: int | None) -> Segmenter:
    """Choose runtime and device for a dense network; see `LiverMarginLib.inference.segmenter.load_segmenter`."""
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
        segmenter, reasons = _on_accelerator(bundle, device, usable)
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
    return TorchSegmenter(bundle, "cpu", threads)


def _on_accelerator(bundle: Bundle, device: Device, usable: list[Runtime]) -> tuple[Segmenter | None, str]:
    reasons = []
    names = [device.value] if device is not Device.AUTO else [Device.CUDA.value, Device.MPS.value]
    for name in names:
        if Runtime.TORCH in usable:
            reason = prove_torch_device(name)
            try:
                if not reason:
                    return TorchSegmenter(bundle, name), ""
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


def _cannot_run(manifest: Manifest, device: str, error: Exception) -> BundleError:
    return BundleError(
        f"The model {manifest.name!r} failed on the device {device}; try the device cpu, or check the model.",
        technical(error),
    )
