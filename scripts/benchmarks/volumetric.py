"""The sliding window of volumetric networks against MONAI's: the same network, blocks and overlap.

Every contender maps the same volume to labels, in turns, each in a process of its own: LiverMargin's window by each
runtime that is installed, and MONAI's `sliding_window_inference` (Gaussian weights) with the same network in torch as
its tutorials run it. The volume is such that both place their blocks alike. Memory is the peak above what was in use
before, network and volume being loaded already.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import in_turns, measured, ratio_of

PEER = "monai"
OURS = ("onnx", "torch")
OVERLAP = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py volumetric`."""
    parser.add_argument("--blocks", type=int, nargs=3, default=(1, 2, 2), help="half-overlapping blocks, less one")
    parser.add_argument("--block", type=int, default=64, help="side of a block")
    parser.add_argument("--widths", type=int, nargs="+", help="of the 3-D U-Net; the published ones by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of all contenders")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--contender", choices=[PEER, *OURS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Measure in turns and print the table."""
    if options.contender:
        print(json.dumps(_measure(options)))
        return 0
    if importlib.util.find_spec("monai") is None:
        print("This benchmark needs monai.")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, options)
        contenders = [PEER, *OURS]
        found, busy = in_turns(contenders, options.repeats, lambda contender: _arguments(contender, folder, options))
        labels = {contender: np.load(folder / f"{contender}.npy") for contender in contenders}
        shape = np.load(folder / "volume.npy", mmap_mode="r").shape
    print(
        f"\n3-D U-Net, {shape} voxels, blocks of {options.block}; "
        f"load of the machine {min(busy):.1f} to {max(busy):.1f}"
    )
    print(f"{'':34}{'seconds':>9}{'ratio':>8}{'CPU':>8}{'MiB':>8}{'ratio':>8}{'labels':>10}")
    for contender in contenders:
        row = found[contender]
        seconds, mib = (statistics.median(one[key] for one in row) for key in ("seconds", "mib"))
        ratio, processor, memory = (ratio_of(found[PEER], row, key) for key in ("seconds", "processor", "mib"))
        different = f"{(labels[contender] != labels[PEER]).mean():.1e}"
        print(f"{row[0]['runtime']:34}{seconds:9.2f}{ratio:8.2f}{processor:8.2f}{mib:8.0f}{memory:8.2f}{different:>10}")
    print("ratio: of the time; CPU: ratio of the processors' time, which other programs disturb less")
    print("labels: share of voxels that differ from MONAI's")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _arguments(contender: str, folder: Path, options: argparse.Namespace) -> list[str]:
    script = Path(__file__).resolve().parents[1] / "benchmark.py"
    words = [str(script), "volumetric", "--contender", contender, "--folder", str(folder)]
    return words + ([] if options.threads is None else ["--threads", str(options.threads)])


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Write an untrained 3-D U-Net as a bundle, and a smooth random volume."""
    import torch
    from scipy import ndimage

    from LiverMarginLib.models.bundle import save_bundle
    from LiverMarginLib.models.manifest import Manifest, Window
    from LiverMarginLib.models.unet3d import PUBLISHED_WIDTHS, UNet3D
    from LiverMarginLib.terminology import LIVER, LIVER_MASS
    from LiverMarginLib.volume import IntensityKind, Modality

    torch.manual_seed(0)
    parameters = {"in_channels": 1, "classes": 3, "widths": list(options.widths or PUBLISHED_WIDTHS), "dropout": 0.25}
    parameters |= {"input_dropout": None, "norm": "instance"}
    manifest = Manifest(
        name="unet3d",
        version="1.0.0",
        architecture="unet3d",
        modality=Modality.CT,
        input_kind=IntensityKind.HU,
        window=Window(-160, 240),
        input_size=(options.block,) * 3,
        spacing=(1.0, 1.0, 1.0),
        labels=(LIVER, LIVER_MASS),
        parameters=parameters,
    )
    shape = [options.block + n * options.block // 2 for n in options.blocks]
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 3)
    volume = (0.5 + noise / noise.std() / 4).clip(0, 1).astype(np.float32)
    np.save(folder / "volume.npy", volume)
    network = UNet3D(**parameters).eval()
    with torch.no_grad():  # all classes about equally likely, so that the labels say something
        logits = network(torch.from_numpy(volume[:32, :32, :32].copy())[None, None])
        scale = 3 / logits.std()
        network.head.bias.sub_(logits.mean(dim=(0, 2, 3, 4))).mul_(scale)
        network.head.weight.mul_(scale)
    save_bundle(folder / "unet3d", manifest, module=network)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from LiverMarginLib.models.bundle import Bundle

    volume, bundle = np.load(options.folder / "volume.npy"), Bundle.load(options.folder / "unet3d")
    work, runtime = (_peer if options.contender == PEER else _ours)(volume, bundle, options)
    before = time.process_time()
    labels, seconds, mib = measured(work)
    processor = time.process_time() - before
    np.save(options.folder / f"{options.contender}.npy", labels)
    return {"seconds": seconds, "processor": processor, "mib": mib, "runtime": runtime}


_Work = tuple[Callable[[], np.ndarray], str]


def _peer(volume: np.ndarray, bundle: Any, options: argparse.Namespace) -> _Work:
    import monai
    import torch
    from monai.inferers import sliding_window_inference

    from LiverMarginLib.inference.sliding import window_weights

    if options.threads:
        torch.set_num_threads(options.threads)
    network, size = bundle.torch_module(), bundle.manifest.input_size
    k, j, i = (torch.from_numpy(window_weights(side)) for side in size)
    weights = k[:, None, None] * j[:, None] * i  # MONAI's own, but for the smallest, which it lifts

    @torch.inference_mode()
    def work() -> np.ndarray:
        image = torch.from_numpy(volume)[None, None]
        logits = sliding_window_inference(
            image, size, 1, lambda block: network(block).softmax(1), overlap=OVERLAP, roi_weight_map=weights
        )
        return logits[0].argmax(0).to(torch.uint8).numpy()

    with torch.inference_mode():
        network(torch.zeros(1, 1, *size))
    return work, f"MONAI {monai.__version__}, torch {torch.__version__}"


def _ours(volume: np.ndarray, bundle: Any, options: argparse.Namespace) -> _Work:
    from LiverMarginLib.inference.labelling import Labelling
    from LiverMarginLib.inference.segmenter import load_segmenter
    from LiverMarginLib.inference.sliding import SlidingWindow

    segmenter = load_segmenter(bundle, device="cpu", runtime=options.contender, threads=options.threads)
    labelling = Labelling.of(bundle.manifest, None)

    def work() -> np.ndarray:
        labels = np.zeros(volume.shape, np.uint8)
        window = SlidingWindow(volume.shape, segmenter.input_size, OVERLAP)
        for first, rows in window.rows(lambda k: volume[k], segmenter.predict, segmenter.classes):
            for n in range(rows.shape[1]):
                labels[first + n] = labelling(rows[:, n])
        return labels

    segmenter.predict(np.zeros((1, 1, *segmenter.input_size), np.float32))
    return work, f"LiverMargin, {segmenter.runtime}"
