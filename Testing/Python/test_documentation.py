"""The documentation names commands, options and files that exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex

import pytest
from conftest import REPOSITORY

from LiverMarginLib.commands import COMMANDS

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CARDS = sorted((REPOSITORY / "Resources" / "Models").glob("*/README.md"))


def command_lines() -> list[tuple[str, str]]:
    """Page and words of each line that begins with `livermargin`; sketches of a syntax ([...], $X) are no commands."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        for line in re.findall(r"^ *livermargin +(\S.*)$", text, re.MULTILINE):
            words = line.partition(" #")[0].removesuffix("...").strip()
            if not re.search(r"[\[$|]", words):
                found.append((page.name, words))
    return found


def parser_of(command: str) -> argparse.ArgumentParser:
    from LiverMarginLib import cli

    parser = cli._command_parser(command)
    importlib.import_module(f"LiverMarginLib.commands.{command.replace('-', '_')}").add_arguments(parser)
    return parser


@pytest.mark.parametrize(("page", "words"), command_lines())
def test_a_command_of_the_documentation_is_understood(page, words):
    command, *arguments = shlex.split(words)
    parser_of(command).parse_args(arguments)


def test_every_command_is_in_the_documentation():
    told = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"livermargin {name}" not in told] == []


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_to_files_that_are_there(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []
