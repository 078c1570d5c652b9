"""`python -m LiverMarginLib` is the command line `livermargin`."""

from __future__ import annotations

import sys

from LiverMarginLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
