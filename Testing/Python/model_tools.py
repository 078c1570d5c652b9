"""What the tests of models share: tiny models of fixed seed, spoilt bundles, stand-in networks, small volumes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import BundleError
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models.bundle import Bundle, save_bundle
from LiverMarginLib.models.intensity_fields import Window, WindowUnit
from LiverMarginLib.models.manifest import Manifest, Postprocessing
from LiverMarginLib.models.unet import UNet
from LiverMarginLib.models.unet3d import UNet3D
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

TINY_WIDTHS = (4, 8, 12)


def tiny_manifest(**changes) -> Manifest:
    """Manifest of a CT model of 32 x 32 pixels; keyword arguments replace its fields."""
    manifest = Manifest(
        name="tiny",
        version="1.0.0",
        architecture="unet",
        parameters={"in_channels": 1, "classes": 1, "widths": list(TINY_WIDTHS), "dropout": 0.1},
        modality=Modality.CT,
        input_kind=IntensityKind.HU,
        window=Window(-160.0, 240.0),
        input_size=(32, 32),
        labels=(LIVER,),
        training={"data": "none: random weights", "steps": 0},
        licence="Apache-2.0",
        description="Random weights, for tests.",
    )
    return dataclasses.replace(manifest, **changes)


def tiny_unet(seed: int = 0, **changes) -> UNet:
    """U-Net with biases, too, of a fixed seed, whose probabilities lie on both sides of 0.5."""
    torch.manual_seed(seed)
    parameters = {"in_channels": 1, "classes": 1, "widths": TINY_WIDTHS, "dropout": 0.1} | changes
    net = UNet(**parameters)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.1, 0.1)
        logits = net.eval()(torch.rand(4, parameters["in_channels"], 32, 32))
        net.head.bias -= logits.mean(dim=(0, 2, 3))
    return net


def tiny_bundle(folder: Path, *, half: bool = False, onnx: bool = True, seed: int = 0, **changes) -> Bundle:
    """Save and load a tiny U-Net bundle; `changes` go into its manifest."""
    manifest = tiny_manifest(**changes)
    net = tiny_unet(seed, in_channels=manifest.channels, classes=len(manifest.labels))
    save_bundle(folder, manifest, module=net, half=half, onnx=onnx)
    return Bundle.load(folder)


EVERYTHING = {
    "modality": Modality.MR,
    "input_kind": IntensityKind.ARBITRARY,
    "window": Window(2, 98, WindowUnit.PERCENTILE),
    "labels": (LIVER, LIVER_MASS, Segment(7, "Größe", (1, 2, 3))),
    "parameters": {"in_channels": 3, "classes": 3, "widths": [4, 8, 12], "dropout": 0.0},
    "context_slices": 1,
    "thresholds": {"mask": 0.4, "score": 0.6},
    "postprocessing": Postprocessing(largest_component=True, min_volume_ml=1.5),
    "training": {"data": "phantoms", "scores": {"Dice": [0.9, 0.95]}},
}


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and ". " not in message and len(message) < 400


REMOVED = "REMOVED"


def edit(folder: Path, **changes) -> None:
    """Change entries of model.json, or take them out."""
    path = folder / "model.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not REMOVED}))


def replace_weights(folder: Path, name: str, content: bytes) -> None:
    """Put other weights into a bundle and sign them, as an attacker would."""
    (folder / name).write_bytes(content)
    weights = json.loads((folder / "model.json").read_text())["weights"]
    edit(folder, weights=weights | {name: hashlib.sha256(content).hexdigest()})


def graph(side: int, weights: onnx.TensorProto) -> bytes:
    """A graph that adds weights to an image."""
    shape = ["batch", 1, side, side]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "classes", side, side])],
            [weights],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return model.SerializeToString()


def weights_in_a_file_of_the_machine() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def weights_of_shape(*shape: int) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "w")


AXIS_ORDERS_AND_FLIPS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
# IJK to RAS of arrays whose axes are superior, posterior, left: what a network sees without any reordering.
SQUARE = np.diag([-0.8, -0.8, 2.5, 1.0])
OBLONG = np.diag([-0.8, -0.9, 2.5, 1.0])


def ct(shape=(6, 32, 32), seed=0, matrix=SQUARE, dtype=np.int16, **changes) -> Volume:
    """Smooth noise in HU between air and bone."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0.5, 2, 2))
    array = (40 + 900 * noise / np.abs(noise).max()).astype(dtype)
    return Volume(
        array, Geometry(shape, matrix), **({"modality": Modality.CT, "intensity": IntensityKind.HU} | changes)
    )


def bare(bundle: Bundle, **changes) -> Bundle:
    """The same bundle with another manifest, for segmenters that need no weights."""
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **changes))


class Fake:
    """A segmenter whose probability is the image itself, and which can run out of memory."""

    runtime, classes = "fake 1.0", 1

    def __init__(self, holds=10**6, error=MemoryError, device="cpu", input_size=(32, 32)):
        self.holds, self.error, self.device, self.input_size = holds, error, device, input_size
        self.batches = []

    def predict(self, batch):
        self.batches.append(len(batch))
        assert batch.dtype == np.float32
        assert batch.flags.c_contiguous
        if len(batch) > self.holds:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return batch[:, :1]


def reoriented(volume: Volume, order, signs, rotation: Rotation) -> tuple[Volume, tuple]:
    """Store the same patient with other array axes (the new axis n is the old order[n]) and turn the patient."""
    steps = tuple(slice(None, None, sign) for sign in signs)
    array = np.ascontiguousarray(np.transpose(volume.array, order)[steps])
    to_old = np.zeros((4, 4))  # new (i, j, k, 1) to old (i, j, k, 1)
    to_old[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        to_old[2 - old, 2 - new] = sign
        to_old[2 - old, 3] = 0 if sign > 0 else volume.array.shape[old] - 1
    turn = np.eye(4)
    turn[:3, :3] = rotation.as_matrix()
    geometry = Geometry(array.shape, turn @ volume.geometry.ijk_to_ras @ to_old)
    return dataclasses.replace(volume, array=array, geometry=geometry), (np.argsort(order), steps)


def refused_when_run(folder: Path, runtime: str) -> str:
    """Load and run a bundle, which must fail with a `BundleError`; return its message."""
    with pytest.raises(BundleError) as caught:
        load_segmenter(Bundle.load(folder), runtime=runtime).predict(np.zeros((1, 1, 32, 32), np.float32))
    assert one_sentence(caught.value.message)
    return caught.value.message


def tiny_unet3d_manifest(**changes) -> Manifest:
    """Manifest of a CT model of blocks of 16 x 16 x 16 voxels of 4 mm; keyword arguments replace its fields."""
    manifest = tiny_manifest(
        name="tiny3d",
        architecture="unet3d",
        parameters={"in_channels": 1, "classes": 3, "widths": [4, 6], "dropout": 0.2, "input_dropout": 0.0},
        input_size=(16, 16, 16),
        spacing=(4.0, 4.0, 4.0),
        labels=(LIVER, LIVER_MASS),
    )
    return dataclasses.replace(manifest, **changes)


def tiny_unet3d_bundle(folder: Path, *, onnx: bool = False, seed: int = 0, **changes) -> Bundle:
    """Save and load a tiny 3-D U-Net bundle with random weights that likes all three classes about equally."""
    manifest = tiny_unet3d_manifest(**changes)
    torch.manual_seed(seed)
    net = UNet3D(**manifest.parameters).eval()
    with torch.no_grad():
        for block in net.modules():
            if isinstance(block, torch.nn.BatchNorm3d):
                block.running_mean.uniform_(-0.2, 0.2)
                block.running_var.uniform_(0.5, 1.5)
        noise = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((2, 1, 16, 16, 16)), 1.5))
        logits = net(noise.float())
        net.head.bias -= logits.mean(dim=(0, 2, 3, 4))
        net.head.weight *= 3 / logits.std()
        net.head.bias *= 3 / logits.std()
    save_bundle(folder, manifest, module=net, onnx=onnx)
    return Bundle.load(folder)
