"""How fast Mask R-CNN runs: LiverMargin's ways of running it against Detectron2's own predictor, on the same weights.

All contenders see the same slices, 512 x 512, in turns, each in a process of its own. Detectron2 runs its
`DefaultPredictor`, slice by slice as its documentation shows, the union of its masks included. The weights are random,
drawn so that many boxes survive, which is the most work that the network can have. Needs Detectron2 and torchvision.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import in_turns, measured, ratio_of

Predict = Callable[[np.ndarray], np.ndarray]

PEER = "detectron2"
OURS = ("ncnn", "onnx", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py maskrcnn`."""
    parser.add_argument("--depth", type=int, default=101, choices=(18, 34, 50, 101))
    parser.add_argument("--slices", type=int, default=4, help="512 x 512, in each turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of all contenders")
    parser.add_argument("--runtimes", nargs="+", default=list(OURS), choices=OURS)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--contender", choices=[PEER, *OURS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Measure in turns and print the table."""
    if options.contender:
        print(json.dumps(_measure(options)))
        return 0
    missing = [name for name in ("detectron2", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"This benchmark needs {' and '.join(missing)}.")
        return 2
    contenders = [PEER, *(name for name in options.runtimes if name != "ncnn" or importlib.util.find_spec("ncnn"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, options)
        found, busy = in_turns(contenders, options.repeats, lambda contender: _arguments(contender, folder, options))
        outputs = {contender: np.load(folder / f"{contender}.npy") for contender in contenders}
    # Detectron2 gives masks, not probabilities: the share of pixels tells; our own ways are compared as they are.
    reference = outputs[PEER]
    ours = outputs.get("onnx")
    print(f"\nMask R-CNN R{options.depth}-FPN, 512 x 512; load of the machine {min(busy):.1f} to {max(busy):.1f}")
    print(f"{'':34}{'ms a slice':>12}{'ratio':>8}{'CPU':>8}{'MiB':>8}{'pixels':>10}{'probability':>13}")
    for contender in contenders:
        seconds = statistics.median(one["seconds"] for one in found[contender])
        ratio, processor = (ratio_of(found[PEER], found[contender], key) for key in ("seconds", "processor"))
        mib = statistics.median(one["mib"] for one in found[contender])
        masks = outputs[contender] >= 0.5
        different = f"{(masks != (reference >= 0.5)).mean():.1e}"
        largest = f"{np.abs(outputs[contender] - ours).max():.1e}" if ours is not None and contender != PEER else ""
        label = found[contender][0]["runtime"]
        print(f"{label:34}{1000 * seconds:12.0f}{ratio:8.2f}{processor:8.2f}{mib:8.0f}{different:>10}{largest:>13}")
    print("ratio: of the time; CPU: ratio of the processors' time, which other programs disturb less")
    print("pixels: share that differs from Detectron2's; probability: largest difference from ONNX Runtime's")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _arguments(contender: str, folder: Path, options: argparse.Namespace) -> list[str]:
    script = Path(__file__).resolve().parents[1] / "benchmark.py"
    words = [str(script), "maskrcnn", "--contender", contender, "--folder", str(folder)]
    words += ["--slices", str(options.slices), "--depth", str(options.depth)]
    return words + ([] if options.threads is None else ["--threads", str(options.threads)])


def _options(depth: int) -> Any:
    from LiverMarginLib.models.detectron_config import DetectronOptions

    return DetectronOptions(depth=depth, norm="BN")


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Write the same weights as a Detectron2 checkpoint and as a bundle, and the slices."""
    import torch

    sys.path.append(str(Path(__file__).resolve().parents[2] / "Testing" / "Python"))
    from detectron_examples import enliven, images

    from LiverMarginLib.models.detectron_bundle import save_mask_rcnn
    from LiverMarginLib.models.detectron_config import build_config, build_model, to_plain
    from LiverMarginLib.models.manifest import Manifest, Window
    from LiverMarginLib.terminology import LIVER
    from LiverMarginLib.volume import IntensityKind, Modality

    torch.manual_seed(0)
    chosen = _options(options.depth)
    model = enliven(build_model(build_config(chosen)))
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    spec = chosen.spec(512)
    manifest = Manifest(
        name="mask-rcnn",
        version="1.0.0",
        architecture="mask-rcnn",
        modality=Modality.CT,
        input_kind=IntensityKind.HU,
        window=Window(-160, 240),
        labels=(LIVER,),
        thresholds={"score": spec.min_score},  # all instances that Detectron2 reports
    )
    save_mask_rcnn(folder / "bundle", manifest, spec, to_plain(model, spec).state_dict())
    np.save(folder / "slices.npy", images(options.slices, 512))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    slices = np.load(options.folder / "slices.npy")
    predict, runtime = _peer(options) if options.contender == PEER else _ours(options)
    predict(slices[:2])
    before = time.process_time()
    output, seconds, mib = measured(lambda: predict(slices))
    processor = time.process_time() - before
    np.save(options.folder / f"{options.contender}.npy", output)
    return {
        "seconds": seconds / len(slices),
        "processor": processor / len(slices),
        "mib": mib,
        "runtime": runtime,
    }


def _peer(options: argparse.Namespace) -> tuple[Predict, str]:
    import detectron2
    import torch
    from detectron2.engine import DefaultPredictor

    from LiverMarginLib.models.detectron_config import build_config

    if options.threads:
        torch.set_num_threads(options.threads)
    config = build_config(_options(options.depth))
    config.MODEL.WEIGHTS = str(options.folder / "model.pth")
    config.INPUT.FORMAT = "BGR"  # it knows no other but RGB, and with this one leaves the channel alone
    predictor = DefaultPredictor(config)

    def predict(slices: np.ndarray) -> np.ndarray:
        masks = [predictor(image.transpose(1, 2, 0))["instances"].pred_masks.any(dim=0).numpy() for image in slices]
        return np.stack(masks)[:, None].astype(np.float32)

    return predict, f"detectron2 {detectron2.__version__}, torch {torch.__version__}"


def _ours(options: argparse.Namespace) -> tuple[Predict, str]:
    from LiverMarginLib.inference.segmenter import load_segmenter
    from LiverMarginLib.inference.slicewise import default_batch
    from LiverMarginLib.models.bundle import Bundle

    bundle = Bundle.load(options.folder / "bundle")
    segmenter = load_segmenter(bundle, device="cpu", runtime=options.contender, threads=options.threads)
    batch = default_batch(segmenter)

    def predict(slices: np.ndarray) -> np.ndarray:
        return np.concatenate([segmenter.predict(slices[k : k + batch]) for k in range(0, len(slices), batch)])

    return predict, f"LiverMargin, {segmenter.runtime}"
