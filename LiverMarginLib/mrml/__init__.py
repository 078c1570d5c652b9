"""Between 3D Slicer's scene and our arrays: the only room of the library that touches `slicer`.

`slicer` is imported inside functions, so that these files load in any Python. Nothing here needs Slicer's window:
it works with PyPI's slicer-core as well, which is how it is tested.
"""

from LiverMarginLib.mrml.from_scene import describe_segment, labels_from_node, modality_of, volume_from_node
from LiverMarginLib.mrml.grids import geometry_of
from LiverMarginLib.mrml.to_scene import (
    SegmentLayers,
    check_output,
    discard,
    labels_to_node,
    new_segmentation,
    volume_to_node,
)

__all__ = [
    "SegmentLayers",
    "check_output",
    "describe_segment",
    "discard",
    "geometry_of",
    "labels_from_node",
    "labels_to_node",
    "modality_of",
    "new_segmentation",
    "volume_from_node",
    "volume_to_node",
]
