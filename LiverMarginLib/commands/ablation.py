"""`livermargin ablation -o OUT`: {cancer, liver+cancer} x {CT, MR, CT+MR} in two stages, and a single stage."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.commands.two_stage import add_study_options, show, study_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_study_options(parser, "ablation")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Train and test every variant, and print the table."""
    from LiverMarginLib.jobs.two_stage import AblationJob

    show(terminal.run(AblationJob(**study_fields(options))), terminal)
    return 0
