"""`livermargin models list|show|check`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from LiverMarginLib.commands.terminal import Terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="every bundle that is found, and where")
    show = actions.add_parser("show", help="what a bundle says about itself")
    show.add_argument("model", help="name or folder of a bundle")
    check = actions.add_parser("check", help="verify a bundle's files and run it once")
    check.add_argument("model", help="name or folder of a bundle")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Do what the action says."""
    return {"list": _list, "show": _show, "check": _check}[options.action](options, terminal)


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
                entry.manifest.modality.value if entry.manifest else None,
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
