"""`livermargin doctor`."""

from __future__ import annotations

import argparse
import dataclasses

from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import BundleError, DependencyError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options (none beyond the common ones)."""


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Say what works; exit 3 when segmenting is not possible."""
    from LiverMarginLib.diagnostics import diagnose
    from LiverMarginLib.models.store import list_bundles

    found = diagnose()
    try:
        models = [bundle.name for bundle in list_bundles()]
    except BundleError as error:
        models = []
        terminal.warn(error.message)
    problems = list(found.problems)
    if not models:
        problems.append("No model bundle was found; put one into the models folder or set LIVERMARGIN_MODELS.")
    terminal.table(
        f"Python {found.python} on {found.platform}, {found.processors} processor(s)",
        ("package", "for", "version"),
        [
            (
                package.name,
                package.purpose,
                package.problem or package.version or ("MISSING" if package.required else "not installed (optional)"),
            )
            for package in found.packages
        ],
    )
    terminal.table(
        "Devices",
        ("device", "what", "proved by one operation", "free memory (GB)"),
        [(d.name, d.description, "yes" if d.proved else f"no: {d.problem}", d.free_memory_gb) for d in found.devices],
    )
    lines = [
        f"models: {', '.join(models) or 'none'}",
        f"sample data: {found.sample_data or 'none (only for development)'}",
        *(f"problem: {problem}" for problem in problems),
        "" if problems else "LiverMargin can segment here.",
    ]
    terminal.result(
        {**dataclasses.asdict(found), "models": models, "problems": problems}, [line for line in lines if line]
    )
    return DependencyError.exit_code if found.problems else 0
