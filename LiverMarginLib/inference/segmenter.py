"""The contract between networks and the pipeline: `Segmenter`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, InputError, technical
from LiverMarginLib.models.architectures import resolve
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import Manifest

if TYPE_CHECKING:
    from LiverMarginLib.inference.labelling import Labelling
    from LiverMarginLib.inference.slice_inputs import SliceInputs
    from LiverMarginLib.inference.slice_labeller import SliceWay


class Device(StrEnum):
    """Where a network may run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Runtime(StrEnum):
    """What may run it."""

    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"
    NCNN = "ncnn"


class Precision(StrEnum):
    """How finely a network computes."""

    SINGLE = "single"
    """float32, with no factor of a convolution rounded to less."""
    HALF = "half"
    """The 16 bits that the device is quick in: float16 on a GPU, bfloat16 on a CPU. Probabilities differ slightly."""


FULL_PRECISION = "float32"


class Segmenter(Protocol):
    """A network that is loaded and ready, whatever runs it."""

    @property
    def input_size(self) -> tuple[int, ...]:
        """(h, w) of a slice-wise network's input, (k, j, i) of a volumetric one's block."""

    @property
    def classes(self) -> int:
        """Number of output channels: one for each label of the bundle, in its order."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "mps"."""

    @property
    def runtime(self) -> str:
        """What runs it, with its version, for the provenance of results: "onnxruntime 1.20.1"."""

    def predict(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute probabilities.

        Parameters
        ----------
        batch : ndarray of float32, shape (n, c, h, w) or (n, c, k, j, i)
            Intensities as the bundle's window and normalisation make them, C-contiguous.

        Returns
        -------
        ndarray of float32, shape (n, classes, h, w) or (n, classes, k, j, i)
            Probabilities in [0, 1]; a softmax's background is left out. Each image's are its own, whatever else is in
            the batch.

        Raises
        ------
        Exception
            Whatever the runtime raises when memory is short (see `LiverMarginLib.inference.memory`); `BundleError`
            if the network cannot be run.
        """


def images_side_by_side(segmenter: Segmenter) -> int:
    """Return how many images of a batch a segmenter computes at the same time: its ``workers``, if it has any."""
    workers: int = getattr(segmenter, "workers", 1)
    return workers


def precision_of(segmenter: Segmenter) -> str:
    """Return what a segmenter computes in, its ``precision`` if it has any: "float32", "float16", "bfloat16"."""
    computed_in: str = getattr(segmenter, "precision", FULL_PRECISION)
    return computed_in


def confined(segmenter: Segmenter, region: npt.NDArray[np.bool_], dark: npt.NDArray[np.float32]) -> Segmenter:
    """Return what `Confinable.confined` returns, or the segmenter itself if it cannot be confined."""
    return segmenter.confined(region, dark) if isinstance(segmenter, Confinable) else segmenter


def largest_batch(segmenter: Segmenter, most: int) -> int:
    """Return how many images, at most `most`, the memory of a segmenter's device holds, as far as it can say."""
    ask: Callable[[int], int] | None = getattr(segmenter, "images_that_fit", None)
    return most if ask is None else ask(most)


@runtime_checkable
class LabelsOnDevice(Protocol):
    """A segmenter that can take slices as they are stored to its device and bring labels back."""

    def slices_on_device(self, source: SliceInputs, labelling: Labelling, batch_size: int) -> SliceWay | None:
        """Make what does so for an image; None where the machine itself is the device."""


@runtime_checkable
class Confinable(Protocol):
    """A slice-wise segmenter that is quicker where it knows which part of its inputs shows anything."""

    def confined(self, region: npt.NDArray[np.bool_], dark: npt.NDArray[np.float32]) -> Segmenter:
        """Return one for inputs that are dark outside of a region.

        Parameters
        ----------
        region : ndarray of bool, shape (h, w)
        dark : ndarray of float32, shape (h, w)
            What each channel is outside of it.

        Returns
        -------
        Segmenter
            Gives the same probabilities in each row from the first pixel of the region to the last, and any others
            outside. It may be this one.
        """


@runtime_checkable
class DropoutSampler(Protocol):
    """A segmenter that can leave dropout on, for a measure of how sure the network is."""

    def dropout(self, seed: int) -> AbstractContextManager[None]:
        """Draw dropout anew in each `predict` within the context; all else stays as in evaluation."""


def load_segmenter(
    bundle: Bundle,
    *,
    device: Device | str = Device.AUTO,
    runtime: Runtime | str = Runtime.AUTO,
    threads: int | None = None,
    precision: Precision | str = Precision.SINGLE,
) -> Segmenter:
    """Make a bundle's network ready to run.

    Parameters
    ----------
    bundle : Bundle
    device : Device or str
        ``auto`` takes a GPU that passes a test computation, otherwise the CPU. A device asked for by name is used or
        refused, never replaced.
    runtime : Runtime or str
        ``auto`` takes torch on a GPU, and on the CPU the fastest that is installed and that the bundle has weights
        for: ncnn, ONNX Runtime, torch.
    threads : int, optional
        CPU threads; by default those that the machine leaves to this process.
    precision : Precision or str
        ``half`` is computed by torch alone.

    Returns
    -------
    Segmenter

    Raises
    ------
    BundleError
        If the bundle does not segment, lacks the weights for the runtime, or cannot be run.
    InputError
        If the runtime does not compute in the precision.
    DependencyError
        If the runtime is not installed.
    ResourceError
        If the device is not there, fails its test, or is no quicker in half precision.
    """
    try:
        device, runtime, precision = Device(device), Runtime(runtime), Precision(precision)
    except ValueError as error:
        raise InputError(
            f"{error}; the device is one of {', '.join(Device)}, the runtime one of {', '.join(Runtime)} and the "
            f"precision one of {', '.join(Precision)}."
        ) from error
    if threads is not None and threads < 1:
        raise InputError("The number of threads must be 1 or more.")
    loader = bundle.architecture.segmenter
    if loader is None:
        raise BundleError(f"The model {bundle.manifest.name!r} does not segment; choose another model.")
    segmenter: Segmenter = resolve(loader)(bundle, device=device, runtime=runtime, threads=threads, precision=precision)
    return segmenter


def cannot_run(manifest: Manifest, device: str, error: Exception) -> BundleError:
    """Say that a network failed for another reason than short memory."""
    return BundleError(
        f"The model {manifest.name!r} failed on the device {device}; try the device cpu, or check the model.",
        technical(error),
    )
