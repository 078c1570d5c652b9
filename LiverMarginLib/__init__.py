"""LiverMargin: segment the liver in CT and MR, and say how good the boundary of the segmentation is.

"Margin" is the boundary of the segmented liver; this is not a resection or ablation margin planner, and not a
medical device. The package is pure Python and imports without torch; see docs/ for the rooms and their rules.
"""

from __future__ import annotations

__version__ = "0.1.0"
