"""`livermargin models list|show|check|export|ensemble|available|get|add|tune`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import InputError

ACTIONS = ("list", "show", "check", "export", "ensemble", "available", "get", "add", "tune")
_WITHOUT_MODEL = ("list", "available")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="list all; show what one says about itself; verify and run one; write one with an ONNX graph; "
        "combine several; list those that can be downloaded; download one of them; add one from an address or a zip; "
        "choose threshold and post-processing on phantoms",
    )
    parser.add_argument(
        "model", nargs="?", help="name or folder of a bundle; add: address or path of a zip; not for list and available"
    )
    parser.add_argument(
        "-o", "--output", help="folder of the exported bundle; get, add: where models go (default: the user's folder)"
    )
    parser.add_argument("--sha256", help="add: of the zip, as its owner names it")
    parser.add_argument("--overwrite", action="store_true", help="get, add: replace a model of the same name")
    parser.add_argument(
        "--onnx", action="store_true", help="export: with the graph that ONNX Runtime runs without torch"
    )
    parser.add_argument(
        "--with", dest="others", metavar="MODEL", nargs="+", default=[], help="ensemble: the other members"
    )
    parser.add_argument(
        "--rule",
        choices=("mean", "inside"),
        default="mean",
        help="ensemble: mean of the probabilities, or the first member inside the boxes that the second finds",
    )
    parser.add_argument("--phantoms", type=int, default=12, help="tune: how many (default: 12)")
    parser.add_argument("--half", action="store_true", help="export: store the weights in half precision")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Do what the action says."""
    if options.action not in _WITHOUT_MODEL and options.model is None:
        raise InputError(f"Say which model to {options.action}; `livermargin models list` names them.")
    actions = {"list": _list, "show": _show, "check": _check, "export": _export, "ensemble": _ensemble}
    actions |= {"available": _available, "get": _add, "add": _add, "tune": _tune}
    return actions[options.action](options, terminal)


def _list(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.models.store import list_bundles

    entries = list_bundles()
    terminal.table(
        f"{len(entries)} model(s)",
        ("name", "version", "modality", "labels", "folder", "remarks"),
        [
            (
                entry.name,
                entry.manifest.version if entry.manifest else None,
                ", ".join(entry.manifest.modalities) if entry.manifest else None,
                ", ".join(segment.name for segment in entry.manifest.labels) if entry.manifest else None,
                entry.folder,
                entry.problem or (entry.manifest.description if entry.manifest else ""),
            )
            for entry in entries
        ],
    )
    terminal.result(
        {"models": [{"name": e.name, "folder": str(e.folder), "usable": e.manifest is not None} for e in entries]}
    )
    return 0


def _show(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.models.bundle import CARD_FILE
    from LiverMarginLib.models.store import find_bundle

    bundle = find_bundle(options.model)
    card = bundle.folder / CARD_FILE
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else ["This bundle has no model card."]
    terminal.result(json.loads(bundle.manifest.to_json()), lines)
    return 0


def _check(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.inference.check import check_bundle
    from LiverMarginLib.models.store import find_bundle

    report = check_bundle(find_bundle(options.model).folder)
    lines = [f"{report.name} {report.version}: files and checksums are right"]
    lines += [f"{runtime}: one prediction in {seconds:.2f} s" for runtime, seconds in report.seconds.items()]
    lines += [f"{runtime}: not tried. {reason}" for runtime, reason in report.skipped.items()]
    if report.largest_difference is not None:
        lines.append(f"largest difference between the two: {report.largest_difference:.2g}")
    terminal.result(dataclasses.asdict(report), lines)
    return 0


def _export(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.models.bundle import save_bundle
    from LiverMarginLib.models.store import find_bundle

    if options.output is None:
        raise InputError("Say where the exported model goes: --output FOLDER.")
    bundle = find_bundle(options.model)
    if bundle.manifest.architecture == "mask-rcnn":
        # Its graph is not traced from a torch module as a whole.
        from LiverMarginLib.models.detectron_bundle import save_mask_rcnn
        from LiverMarginLib.models.maskrcnn_spec import MaskRCNNSpec

        spec = MaskRCNNSpec.from_dict(bundle.manifest.parameters)
        weights = bundle.torch_weights()
        written = save_mask_rcnn(options.output, bundle.manifest, spec, weights, half=options.half, onnx=options.onnx)
    else:
        module = bundle.torch_module()
        written = save_bundle(options.output, bundle.manifest, module=module, half=options.half, onnx=options.onnx)
    files = sorted(path.name for path in written.folder.iterdir())
    terminal.result({"folder": str(written.folder), "files": files}, [f"written: {written.folder / n}" for n in files])
    return 0


def _ensemble(options: argparse.Namespace, terminal: Terminal) -> int:
    from pathlib import Path

    from LiverMarginLib.models.ensemble_architecture import Rule, save_ensemble
    from LiverMarginLib.models.store import find_bundle

    if options.output is None or not options.others:
        raise InputError("Say which models are combined and where the result goes: --with MODEL --output FOLDER.")
    members = [find_bundle(name) for name in (options.model, *options.others)]
    written = save_ensemble(options.output, Path(options.output).name, members, Rule(options.rule))
    terminal.result({"folder": str(written.folder)}, [f"written: {written.folder}"])
    return 0


def _available(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.models.offers import list_offers
    from LiverMarginLib.models.store import list_bundles

    there = {entry.name: entry.manifest.version for entry in list_bundles() if entry.manifest is not None}
    offers = list_offers()
    terminal.table(
        f"{len(offers)} model(s) to download",
        ("name", "version", "MB", "licence", "here", "description"),
        [
            (offer.name, offer.version, round(offer.size / 1e6, 1), offer.licence, there.get(offer.name, "no"),
             offer.description)
            for offer in offers
        ],
    )  # fmt: skip
    terminal.result({"models": [{**dataclasses.asdict(offer), "here": there.get(offer.name)} for offer in offers]})
    return 0


def _add(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.jobs.models import AddModelJob

    result = terminal.run(AddModelJob(options.model, options.sha256, options.output, options.overwrite))
    terminal.result(result, [f"{result['name']} {result['version']}: {result['folder']}"])
    return 0


def _tune(options: argparse.Namespace, terminal: Terminal) -> int:
    from LiverMarginLib.jobs.tune import TuneJob

    if options.output is None:
        raise InputError("Say where the tuned model goes: --output FOLDER.")
    result = terminal.run(TuneJob(options.model, options.output, options.phantoms))
    shape = result["postprocessing"]
    pieces = "the largest piece" if shape["largest_component"] else "all pieces"
    terminal.result(
        result,
        [
            f"threshold {result['threshold_before']:g} before, {result['threshold']:g} now; {pieces}, holes filled: "
            f"{shape['fill_holes']}",
            f"mean Dice of {result['phantoms']} phantoms {result['dice_before']:.4f} before, {result['dice']:.4f} now",
            f"written: {result['bundle']}",
        ],
    )
    return 0
