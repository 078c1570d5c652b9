"""Data sets of images with liver masks: open, check, split by patient, and read slice by slice.

Start with `LiverMarginLib.datasets.layouts.open_dataset`; formats are described in docs/formats.md.
"""

from __future__ import annotations
