"""Denoising of a volume by a network that sees one axial slice at a time.

The result is always a new volume: denoised values are a network's opinion and never replace the scanner's. Only values
inside the network's intensity window change; air, lung and bone beyond it stay as they are.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, InputError, ResourceError, technical
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress, ignore
from LiverMarginLib.inference.backends import onnx_session
from LiverMarginLib.inference.compatibility import plan_input
from LiverMarginLib.inference.devices import accelerator_is_likely, prove_torch_device
from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.inference.segmenter import Device, Runtime
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import ONNX_FILE, SAFETENSORS_FILE, Task
from LiverMarginLib.preprocessing import resampling_weights, window_to_unit
from LiverMarginLib.volume import Geometry, Volume, axial_view

FloatImage = npt.NDArray[np.float32]

DENOISING = "denoising"


@dataclass(frozen=True)
class Denoiser:
    """A denoising network that is loaded and ready.

    Parameters
    ----------
    bundle : Bundle
    device : str
        "cpu", "cuda" or "mps".
    runtime : str
        "torch" or "onnxruntime".
    run : callable
        Takes and gives float32 arrays of shapes (1, 1, h, w) and (1, 1, scale * h, scale * w).
    """

    bundle: Bundle
    device: str
    runtime: str
    run: Any

    @property
    def scale(self) -> int:
        """How many times more pixels the result has along both in-plane axes."""
        return int(self.bundle.manifest.parameters["scale"])


def load_denoiser(
    bundle: Bundle,
    *,
    device: Device | str = Device.AUTO,
    runtime: Runtime | str = Runtime.AUTO,
    threads: int | None = None,
) -> Denoiser:
    """Make a denoising bundle's network ready to run: by torch where it is installed, otherwise by ONNX Runtime.

    Raises
    ------
    BundleError
        If the bundle does not denoise, or lacks the weights for the runtime.
    ResourceError
        If the device cannot be used.
    """
    device, runtime = Device(device), Runtime(runtime)
    if bundle.manifest.task is not Task.DENOISING:
        raise BundleError(
            f"The model {bundle.manifest.name!r} does not denoise; choose one that does, such as DnCNN-SR."
        )
    torch_there = bundle.has(SAFETENSORS_FILE) and importlib.util.find_spec("torch") is not None
    # ncnn, chosen for the network that segments, runs no denoiser.
    if runtime is Runtime.TORCH or (runtime in (Runtime.AUTO, Runtime.NCNN) and torch_there):
        return _by_torch(bundle, device, threads)
    if not bundle.has(ONNX_FILE):
        raise BundleError(f"The model {bundle.manifest.name!r} has no ONNX graph; install torch to run it.")
    if device is Device.MPS:
        raise ResourceError("ONNX Runtime cannot use the device mps; choose the device cpu or the runtime torch.")
    return _by_onnx(bundle, "cuda" if device is Device.CUDA else "cpu", threads)


def load_denoiser_of_same_size(
    bundle: Bundle,
    *,
    device: Device | str = Device.AUTO,
    runtime: Runtime | str = Runtime.AUTO,
    threads: int | None = None,
) -> Denoiser:
    """Make a denoising network ready whose result can stand in for the image, as `load_denoiser` does.

    Raises
    ------
    InputError
        If the network changes the resolution.
    """
    denoiser = load_denoiser(bundle, device=device, runtime=runtime, threads=threads)
    if denoiser.scale != 1:
        raise InputError(
            f"The model {bundle.manifest.name} also changes the resolution; choose one of scale 1 to segment with."
        )
    return denoiser


def _by_torch(bundle: Bundle, device: Device, threads: int | None) -> Denoiser:
    import torch

    name = "cpu"
    if device is Device.AUTO:
        candidates = ("cuda", "mps") if accelerator_is_likely() else ()
        name = next((candidate for candidate in candidates if not prove_torch_device(candidate)), "cpu")
    elif device is not Device.CPU:
        name = device.value
        if reason := prove_torch_device(name):
            raise ResourceError(f"The device {name} cannot be used here ({reason}); choose the device auto or cpu.")
    if threads is not None and name == "cpu":
        torch.set_num_threads(threads)
    module = bundle.torch_module().to(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(image: FloatImage) -> FloatImage:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(image).to(name)).float().cpu().contiguous().numpy())

    return Denoiser(bundle, name, "torch", run)


def _by_onnx(bundle: Bundle, device: str, threads: int | None) -> Denoiser:
    session = onnx_session(bundle, device, threads)
    height, width = bundle.manifest.input_size
    scale = int(bundle.manifest.parameters["scale"])
    name = session.get_inputs()[0].name

    def run(image: FloatImage) -> FloatImage:
        h, w = image.shape[-2:]
        if h > height or w > width:
            raise InputError(
                f"Slices of {h} x {w} pixels are too large for this model's ONNX graph ({height} x {width}); "
                "install torch to denoise them."
            )
        padded = np.pad(image, ((0, 0), (0, 0), (0, height - h), (0, width - w)), mode="edge")
        output: FloatImage = session.run(None, {name: padded})[0]
        return output[..., : scale * h, : scale * w]

    return Denoiser(bundle, device, "onnxruntime", run)


def denoise_volume(
    volume: Volume,
    denoiser: Denoiser,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
    *,
    allow_mismatch: bool = False,
) -> Volume:
    """Denoise a volume slice by slice.

    Parameters
    ----------
    volume : Volume
        Not changed.
    denoiser : Denoiser
        See `load_denoiser`.
    on_event : callable
        Told of every finished slice (`Progress`) and of everything the user should know (`Notice`).
    cancel : CancelToken, optional
        Looked at between slices.
    allow_mismatch : bool
        Go on where the image is not of the kind that the model was trained on.

    Returns
    -------
    Volume
        On the same grid for scale 1; for scale 2 with pixels of half the size over the same extent. The type of its
        values is that of the input, rounded where that is an integer, and its notes say what was done.

    Raises
    ------
    InputError
        If the image is not of the model's kind or shows nothing.
    ResourceError
        If memory does not suffice for a single slice.
    Cancelled
        If `cancel` was raised.
    """
    cancel = cancel or CancelToken()
    manifest, scale = denoiser.bundle.manifest, denoiser.scale
    plan = plan_input(volume, manifest, allow_mismatch=allow_mismatch)
    for notice in plan.notices:
        on_event(Notice(notice))
    view = axial_view(volume.geometry)
    geometry = volume.geometry
    factors = [1, 1, 1]
    for axis in view.axes[1:]:
        factors[axis] = scale
    if scale > 1:
        geometry = finer_geometry(geometry, (factors[0], factors[1], factors[2]))
    kind = volume.array.dtype if volume.array.dtype.kind in "iuf" else np.dtype(np.float32)
    array = np.empty(geometry.shape, dtype=kind)
    source, target = view.to_view(volume.array), axial_view(geometry).to_view(array)
    for k in range(len(source)):
        cancel.check()
        target[k] = _denoise_slice(source[k], denoiser, plan.low, plan.high, kind)
        on_event(Progress(k + 1, len(source), DENOISING))
    note = f"Denoised by the model {manifest.name} {manifest.version} between {plan.low:g} and {plan.high:g}."
    return Volume(array, geometry, volume.modality, volume.intensity, volume.spacing_known, notes=(*volume.notes, note))


def _denoise_slice(
    values: npt.NDArray[Any], denoiser: Denoiser, low: float, high: float, kind: np.dtype[Any]
) -> npt.NDArray[Any]:
    image = window_to_unit(values, low, high)
    try:
        unit = denoiser.run(image[None, None])[0, 0]
    except MemoryError as error:
        raise _too_little_memory(error) from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _too_little_memory(error) from error
        raise BundleError(
            f"The model {denoiser.bundle.manifest.name!r} failed on the device {denoiser.device}; try the device cpu.",
            technical(error),
        ) from error
    if not np.isfinite(unit).all():
        raise BundleError(
            f"The model {denoiser.bundle.manifest.name!r} gives values that are not numbers; get it again."
        )
    before = np.ascontiguousarray(values, dtype=np.float32)
    if denoiser.scale > 1:
        rows, columns = (resampling_weights(denoiser.scale * n, n, 1 / denoiser.scale) for n in before.shape)
        before = np.matmul(np.matmul(rows, before), columns.T)
    restored = np.float32(low) + np.clip(unit, 0, 1) * np.float32(high - low)
    result = np.where((before > low) & (before < high), restored, before)
    return np.rint(result).astype(kind) if kind.kind in "iu" else result.astype(kind)


def finer_geometry(geometry: Geometry, factors: tuple[int, int, int]) -> Geometry:
    """Return the grid that divides each voxel into `factors` parts along (k, j, i), over the same extent."""
    to_old = np.diag([1 / factor for factor in factors[::-1]] + [1.0])
    # The centre of the first of f parts lies (1 - f) / 2f of a voxel before the old centre.
    to_old[:3, 3] = [(1 - factor) / (2 * factor) for factor in factors[::-1]]
    shape = tuple(n * factor for n, factor in zip(geometry.shape, factors, strict=True))
    return Geometry(shape, geometry.ijk_to_ras @ to_old)  # type: ignore[arg-type]  # three factors, three axes


def _too_little_memory(error: BaseException) -> ResourceError:
    return ResourceError(
        "There is not enough memory to denoise a single slice; close other programs or choose the device cpu.",
        technical(error),
    )
