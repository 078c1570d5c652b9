"""Which part of which node is compared: segments of segmentations, labels of label maps and of plain volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.terminology import LIVER, Segment
from LiverMarginLib.volume import LabelMap

# What holds more values than this is an image of small whole numbers, such as an MR.
_MOST_LABELS = 255


@dataclass(frozen=True)
class Organ:
    """One segment or label of a node.

    Parameters
    ----------
    key : str
        Segment ID of a segmentation, label value of a label map.
    name : str
    is_liver : bool
        Whether its terminology says so.
    """

    key: str
    name: str
    is_liver: bool = False


def organs_of(node: Any) -> list[Organ]:
    """List what a node holds, for the user to choose from.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode or vtkMRMLScalarVolumeNode

    Raises
    ------
    LiverMarginError
        If it holds no labels.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        found = []
        for n in range(segmentation.GetNumberOfSegments()):
            described = mrml.describe_segment(segmentation.GetNthSegment(n), n + 1)
            is_liver = described.terminology == LIVER.terminology
            found.append(Organ(segmentation.GetNthSegmentID(n), described.name, is_liver))
        return found
    from LiverMarginLib.io.label_readers import present_labels

    labels = mrml.labels_from_node(node)
    names = {segment.label: segment.name for segment in labels.segments}
    values = present_labels(labels.array)
    if len(values) > _MOST_LABELS:
        raise InputError(f"{node.GetName()!r} holds {len(values)} different values and is an image; choose labels.")
    return [Organ(str(value), names.get(value, str(value))) for value in values]


def counterpart(organs: Sequence[Organ], name: str) -> Organ | None:
    """Find in a prediction what is called like the reference's organ, or else the liver, or else the only one.

    Parameters
    ----------
    organs : sequence of Organ
        What the prediction holds.
    name : str
        Of the reference's organ.

    Returns
    -------
    Organ or None
        None if nothing decides; the order of labels never does.
    """
    for fits in (
        [organ for organ in organs if organ.name.lower() == name.lower()],
        [organ for organ in organs if organ.is_liver],
        organs,
    ):
        if len(fits) == 1:
            return fits[0]
    return None


def needed_counterpart(node: Any, name: str) -> Organ:
    """Find the `counterpart` in a node.

    Raises
    ------
    LiverMarginError
        If nothing decides, or the node holds no labels.
    """
    found = counterpart(organs_of(node), name)
    if found is None:
        raise InputError(f"{node.GetName()!r} has no single segment {name!r}; name the segment to compare like that.")
    return found


def organ_labels(node: Any, organ: Organ) -> LabelMap:
    """Take one organ out of the scene, as label 1."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return mrml.labels_from_node(node, [organ.key])
    labels = mrml.labels_from_node(node)
    mask = labels.mask(int(organ.key)).astype(np.uint8)
    return replace(labels, array=mask, segments=(Segment(1, organ.name, LIVER.colour),))
