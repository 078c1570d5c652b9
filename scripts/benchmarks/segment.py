"""How fast a volume is segmented: against an eager loop over slices, against the machine's peak, stage by stage.

Three things are measured, in turns. The network alone: LiverMargin's way of running it against the same weights in
torch, slice by slice as a notebook would do it, with the largest difference of the probabilities; once on slices of a
CT, where much is air, and once on random values everywhere. The machine: what a 3 x 3 convolution that fits the cache
reaches, and what copying a large array does, which give the two floors of the network's time (operations over the peak,
bytes over the bandwidth). The whole: a DICOM series of 512 x 512 slices to a seg.nrrd, with the share of each stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import in_turns, measured
from LiverMarginLib.models.row_spans import RowSpans

OURS, EAGER = "LiverMargin", "eager torch, slice by slice"
# Multiply-adds of the U-Net of Table 4 on one 512 x 512 slice, and the values that its layers write and read again.
UNET_MACS, UNET_ACTIVATIONS = 12.05e9, 88e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py segment`."""
    parser.add_argument("--slices", type=int, default=300, help="of the DICOM series")
    parser.add_argument("--image", type=Path, help="a CT whose slices the network alone gets (default: the phantom)")
    parser.add_argument("--network-slices", type=int, default=16, help="512 x 512, for the network alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of both contenders")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both contenders")
    parser.add_argument("--precision", choices=["single", "half"], default="single", help="LiverMargin's")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--part", choices=list(_PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Measure in turns and print the tables."""
    if options.part:
        print(json.dumps(_PARTS[options.part](options)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, options)
        found, busy = in_turns(_PARTS, options.repeats, lambda part: _arguments(part, folder, options))
        facts = {kind: _compared(folder, kind) for kind in _KINDS}
    show(found, options, facts)
    print(f"load of the machine {min(busy):.1f} to {max(busy):.1f}")
    if options.json:
        options.json.write_text(json.dumps({**found, "compared": facts}, indent=2))
    return 0


def _arguments(part: str, folder: Path, options: argparse.Namespace) -> list[str]:
    script = Path(__file__).resolve().parents[1] / "benchmark.py"
    words = [str(script), "segment", "--part", part, "--folder", str(folder)]
    words += ["--device", options.device, "--precision", options.precision]
    return words + ([] if options.threads is None else ["--threads", str(options.threads)])


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Write a U-Net of Table 4 for 512 x 512 slices as a bundle, what it will see, and a phantom as a DICOM series."""
    from LiverMarginLib.inference.compatibility import plan_input
    from LiverMarginLib.inference.slice_inputs import SliceInputs
    from LiverMarginLib.io.readers import read_volume
    from LiverMarginLib.io.volume_writers import write_volume
    from LiverMarginLib.models.bundle import save_bundle
    from LiverMarginLib.models.store import find_bundle
    from LiverMarginLib.phantom import PhantomOptions, make_phantom
    from LiverMarginLib.preprocessing import fit_in_plane
    from LiverMarginLib.volume import axial_view

    # Trained, so that it knows air; its layers are those of the paper's, and so is its size here.
    trained = find_bundle("unet-ct")
    manifest = dataclasses.replace(trained.manifest, name="table-4", input_size=(512, 512))
    save_bundle(folder / "table-4", manifest, module=trained.torch_module().eval())
    phantom = make_phantom(
        1, PhantomOptions(shape=(options.slices, 512, 512), spacing=(220 / options.slices, 0.78, 0.78))
    )
    write_volume(phantom.volume, folder / "dicom")
    volume = read_volume(options.image) if options.image else phantom.volume
    view = axial_view(volume.geometry)
    voxels = view.to_view(volume.array)
    fit = fit_in_plane(voxels.shape[1:], view.geometry.spacing[1:], manifest.input_size)
    source = SliceInputs(voxels, plan_input(volume, manifest), fit, manifest.context, None)
    count = options.network_slices
    slices = source.batch([len(voxels) * (2 * n + 1) // (2 * count) for n in range(count)])
    noise = np.random.default_rng(0).random(slices.shape, dtype=np.float32)
    for kind, images, region in (
        ("slices", slices, source.bright(range(len(voxels)))),
        ("noise", noise, np.ones(manifest.input_size, bool)),
    ):
        np.savez(folder / f"{kind}.npz", images=images, region=region, dark=source.dark, body=source.body(images))


def ours(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """The network by LiverMargin, in its own batches."""
    from LiverMarginLib.inference.segmenter import confined, load_segmenter, precision_of
    from LiverMarginLib.inference.slicewise import default_batch
    from LiverMarginLib.models.bundle import Bundle

    segmenter = load_segmenter(
        Bundle.load(options.folder / "table-4"),
        device=options.device,
        threads=options.threads,
        precision=options.precision,
    )
    given = np.load(options.folder / f"{kind}.npz")
    images = given["images"]
    started = time.perf_counter()
    segmenter = confined(segmenter, given["region"], given["dark"])
    making = time.perf_counter() - started
    batch = default_batch(segmenter)
    for _ in range(1 if options.device == "cpu" else 2):  # a GPU's graph is recorded the second time
        segmenter.predict(images[:batch])

    def work() -> np.ndarray:
        return np.concatenate([segmenter.predict(images[k : k + batch]) for k in range(0, len(images), batch)])

    probabilities, seconds, mib = measured(work)
    np.save(options.folder / f"ours-{kind}.npy", probabilities)
    runtime = f"{segmenter.runtime}, {precision_of(segmenter)}"
    return {"seconds": seconds / len(images), "mib": mib, "runtime": runtime, "once_a_volume": making}


def eager(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same weights in torch as a notebook runs them: one slice, one call, the default memory layout."""
    import torch

    from LiverMarginLib.models.bundle import Bundle

    if options.threads:
        torch.set_num_threads(options.threads)
    module = Bundle.load(options.folder / "table-4").torch_module().eval().to(options.device)
    images = np.load(options.folder / f"{kind}.npz")["images"]

    @torch.no_grad()
    def work() -> np.ndarray:
        singles = (torch.from_numpy(image[None]).to(options.device) for image in images)
        return np.concatenate([torch.sigmoid(module(single)).cpu().numpy() for single in singles])

    with torch.no_grad():
        module(torch.from_numpy(images[:1]).to(options.device))
    probabilities, seconds, mib = measured(work)
    np.save(options.folder / f"eager-{kind}.npy", probabilities)
    return {"seconds": seconds / len(images), "mib": mib, "runtime": f"torch {torch.__version__}"}


def peak(options: argparse.Namespace) -> dict[str, Any]:
    """What this machine's best convolution and its memory reach."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    from LiverMarginLib.inference.arithmetic import choose_arithmetic, without_tf32
    from LiverMarginLib.inference.segmenter import Precision

    device, arithmetic = options.device, choose_arithmetic(Precision(options.precision), options.device)
    images = 1 if device == "cpu" else 64  # one leaves a GPU idle
    convolution = torch.nn.Conv2d(128, 128, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    image = torch.rand(images, 128, 64, 64, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode(), without_tf32(), arithmetic.of_network():
        macs = _best_rate(lambda: convolution(image), images * 64 * 64 * 128 * 128 * 9, device)
    array = torch.ones(64 << 20, device=device)
    target = torch.empty_like(array)
    return {"gmac": macs / 1e9, "gb": _best_rate(lambda: target.copy_(array), 2 * array.nbytes, device) / 1e9}


def _best_rate(work: Any, amount: float, device: str) -> float:
    import torch

    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(20):
        finish()
        started = time.perf_counter()
        work()
        finish()
        seconds.append(time.perf_counter() - started)
    return amount / min(seconds)


def end_to_end(options: argparse.Namespace) -> dict[str, Any]:
    """A DICOM series to a seg.nrrd by the shipped model, as the command line does it."""
    from LiverMarginLib.events import Event, Progress
    from LiverMarginLib.jobs.base import run as run_job
    from LiverMarginLib.jobs.segment import SegmentJob

    stages: dict[str, float] = {}
    last = time.perf_counter()
    stage = "start"

    def clock(event: Event) -> None:
        nonlocal last, stage
        if isinstance(event, Progress):
            now = time.perf_counter()
            stages[stage] = stages.get(stage, 0.0) + now - last
            last, stage = now, event.stage

    out = options.folder / f"liver-{time.time_ns()}.seg.nrrd"
    job = SegmentJob(
        str(options.folder / "dicom"),
        "unet-ct",
        (str(out),),
        device=options.device,
        threads=options.threads,
        precision=options.precision,
    )
    values, seconds, mib = measured(lambda: run_job(job, clock))
    return {"seconds": seconds, "mib": mib, "stages": stages, "slices": values["slices"]}


_KINDS = {"slices": "slices of a CT", "noise": "random values"}
_PARTS = {
    **{f"{name}-{kind}": partial(way, kind) for kind in _KINDS for name, way in (("ours", ours), ("eager", eager))},
    "peak": peak,
    "end-to-end": end_to_end,
}


def _compared(folder: Path, kind: str) -> dict[str, float]:
    """How far the probabilities lie apart where an organ can be, and the most that the eager loop sees elsewhere."""
    given = np.load(folder / f"{kind}.npz")
    body, region = given["body"], given["region"]
    ours, eager = (np.load(folder / f"{name}-{kind}.npy") for name in ("ours", "eager"))
    return {
        "largest_difference": float((np.abs(ours - eager) * body).max()),
        "largest_beside": float((eager * ~body).max()),
        "share_of_body": float(body.mean()),
        "share_of_region": float(RowSpans.of(region).mask().mean()),
    }


def show(
    found: dict[str, list[dict[str, Any]]], options: argparse.Namespace, facts: dict[str, dict[str, float]]
) -> None:
    """Print the network's tables, the floors, and the stages."""

    def median(part: str, key: str) -> float:
        return statistics.median(float(one[key]) for one in found[part])

    rate, bandwidth = max(one["gmac"] for one in found["peak"]), max(one["gb"] for one in found["peak"])
    floors = UNET_MACS / rate / 1e9, UNET_ACTIVATIONS * 4 * 2 / bandwidth / 1e9
    for kind, name in _KINDS.items():
        seconds = median(f"ours-{kind}", "seconds")
        title = f"U-Net of Table 4, 512 x 512, {options.network_slices} {name}"
        print(f"\n{title:60}{'ms a slice':>12}{'ratio':>8}{'MiB':>8}")
        for who, label in (("ours", OURS), ("eager", EAGER)):
            part = f"{who}-{kind}"
            mine = median(part, "seconds")
            label = f"{label} ({found[part][0]['runtime']})"
            print(f"{label:60}{1000 * mine:12.0f}{mine / seconds:8.2f}{median(part, 'mib'):8.0f}")
        said = facts[kind]
        print(
            f"largest difference of a probability {said['largest_difference']:.1e} in the body "
            f"({said['share_of_body']:.0%} of the pixels), where alone organs are looked for (at most "
            f"{said['largest_beside']:.1e} beside it);"
        )
        print(
            f"made for a region of {said['share_of_region']:.0%} of the pixels, once a volume, in "
            f"{1000 * median(f'ours-{kind}', 'once_a_volume'):.0f} ms; "
            f"{floors[0] / seconds:.0%} of the peak of plain sums over whole slices"
        )
    print(
        f"floors of whole slices: {1000 * floors[0]:.0f} ms of arithmetic at {rate:.0f} GMAC/s, "
        f"{1000 * floors[1]:.0f} ms of memory at {bandwidth:.1f} GB/s"
    )
    whole = median("end-to-end", "seconds")
    print(f"\nDICOM to seg.nrrd, 512 x 512 x {found['end-to-end'][0]['slices']}, unet-ct: {whole:.1f} s")
    for stage in found["end-to-end"][0]["stages"]:
        spent = statistics.median(one["stages"].get(stage, 0.0) for one in found["end-to-end"])
        print(f"  {stage:24}{spent:8.2f} s{spent / whole:8.0%}")
