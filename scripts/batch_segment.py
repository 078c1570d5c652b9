"""Segment a cohort without a window; the arguments are those of `livermargin batch` (docs/batch.md).

Slicer --no-splash --no-main-window --python-script scripts/batch_segment.py -- INPUT -o FOLDER
PythonSlicer scripts/batch_segment.py INPUT -o FOLDER
python scripts/batch_segment.py INPUT -o FOLDER
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


def arguments() -> list[str]:
    """What follows the script's name; Slicer leaves the two hyphens in."""
    words = sys.argv[1:]
    return words[words.index("--") + 1 :] if "--" in words else words


def main() -> int:
    """Run the batch and return its exit code, whatever happens: Slicer stays open after an exception."""
    library = Path(__file__).resolve().parents[1]
    if str(library) not in sys.path:
        sys.path.insert(0, str(library))
    try:
        from LiverMarginLib.cli import main as livermargin

        return livermargin(["batch", *arguments()])
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            return error.code
        traceback.print_exc()
        return 2


def leave(code: int) -> None:
    """End the process; 3D Slicer's application has a way of its own."""
    application = sys.modules.get("slicer")
    if application is not None and getattr(application, "app", None) is not None:
        application.util.exit(code)
    else:
        sys.exit(code)


if __name__ == "__main__":
    leave(main())
