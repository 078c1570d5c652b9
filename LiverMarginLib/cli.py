"""The command `livermargin`.

Exit codes: 0 fine, 1 something unforeseen (of a batch: cases without a result), 2 bad usage or input, 3 a package is
missing, 4 the machine refuses (disk, memory, permission), 130 cancelled. A traceback is shown only with ``--debug``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from LiverMarginLib import __version__
from LiverMarginLib.commands import COMMANDS
from LiverMarginLib.errors import Cancelled, LiverMarginError
from LiverMarginLib.quiet import silence_libraries

DESCRIPTION = (
    "Segments the liver in CT and MR and shows, slice by slice, how good the boundary of each segmentation is. "
    "Not a medical device; not a resection margin planner."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="livermargin", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"livermargin {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _command_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"livermargin {name}", description=COMMANDS[name])
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")
    parser.add_argument("--debug", action="store_true", help="show technical details and tracebacks")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; `sys.argv` by default.

    Returns
    -------
    int
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name = _parser().parse_known_args(words[:1])[0].command
        command = importlib.import_module(f"LiverMarginLib.commands.{name.replace('-', '_')}")
        parser = _command_parser(name)
        command.add_arguments(parser)
        options = parser.parse_args(words[1:])
    except SystemExit as stop:  # argparse has printed its sentence
        return stop.code if isinstance(stop.code, int) else 2
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.ERROR, format="%(name)s: %(message)s")
    if not options.debug:
        silence_libraries()
    return _guarded(command, options)


def _guarded(command: object, options: argparse.Namespace) -> int:
    from LiverMarginLib.commands.terminal import Terminal

    terminal = Terminal(as_json=options.json)
    try:
        return int(command.run(options, terminal))  # type: ignore[attr-defined]
    except LiverMarginError as error:
        if options.debug:
            raise
        terminal.close()
        if options.json:
            terminal.result({"error": error.kind, "message": error.message})
        print(f"livermargin: {error.message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        terminal.close()
        print(f"livermargin: {Cancelled().message}", file=sys.stderr)
        return Cancelled.exit_code
    except BrokenPipeError:  # the reader of our output has gone (`livermargin info | head`)
        sys.stderr.close()
        return 0
    except Exception as error:
        if options.debug:
            raise
        terminal.close()
        print(
            f"livermargin: Something unforeseen happened ({type(error).__name__}); "
            "run the same command with --debug and report what it prints.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
