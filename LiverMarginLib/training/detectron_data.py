"""Slices with masks as Detectron2 wants them: images with instances, and data sets in its catalogue.

Importing this module needs Detectron2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from scipy import ndimage

from LiverMarginLib.preprocessing import fit_in_plane, window_to_unit
from LiverMarginLib.training.data import SliceSource, usable_slices

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def liver_instances(mask: npt.NDArray[np.bool_], smallest: int = 20) -> Instances:
    """Split a mask into the instances that Mask R-CNN learns from: its 8-connected pieces.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w)
    smallest : int
        Pieces of fewer pixels are left out.

    Returns
    -------
    Instances
        With ``gt_boxes`` (tight, x0 y0 x1 y1), ``gt_classes`` (all 0) and ``gt_masks`` (bit masks, holes kept). None
        is ever a "crowd", which Detectron2 would drop. A slice without liver gives none, and is still learnt from.
    """
    pieces, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    masks = np.stack([pieces == n + 1 for n in range(count) if sizes[n] >= smallest] or [np.zeros((0, *mask.shape))])
    bits = BitMasks(torch.from_numpy(masks.reshape(-1, *mask.shape).astype(bool)))
    instances = Instances(mask.shape)
    instances.gt_boxes = bits.get_bounding_boxes() if len(bits) else Boxes(torch.zeros(0, 4))
    instances.gt_classes = torch.zeros(len(bits), dtype=torch.int64)
    instances.gt_masks = bits
    return instances


def model_input(image: torch.Tensor, mask: torch.Tensor, smallest: int) -> dict[str, Any]:
    """Make what a Detectron2 model takes in training from an image and a mask of shape (1, h, w)."""
    instances = liver_instances(mask[0].cpu().numpy() > 0.5, smallest)
    return {"image": image, "instances": instances, "height": image.shape[1], "width": image.shape[2]}


@dataclass(frozen=True)
class SliceMapper:
    """Reads the slice that a catalogue record names; give it to Detectron2's data loaders as their mapper.

    Parameters
    ----------
    source : SliceSource
    window : tuple of float
        Values that become 0 and 1.
    size : int
        Side of the network's input; slices are fitted to it as inference fits them.
    smallest : int
        See `liver_instances`.
    """

    source: SliceSource
    window: tuple[float, float]
    size: int
    smallest: int = 20

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read one slice; raises `InputError` where it cannot be read."""
        sample = self.source.read(record["slice"])
        fit = fit_in_plane(sample.image.shape, sample.spacing, (self.size, self.size))  # type: ignore[arg-type]
        image = fit.to_network(window_to_unit(sample.image, *self.window))
        mask = fit.to_network((sample.mask > 0).astype(np.float32)) >= 0.5
        tensors = torch.from_numpy(np.ascontiguousarray(image))[None], torch.from_numpy(mask)[None]
        return {**record, **model_input(*tensors, self.smallest)}


def register_slices(name: str, source: SliceSource, *, size: int, unannotated_as_empty: bool = False) -> None:
    """Enter slices into Detectron2's catalogue under `name`, replacing an entry of that name.

    The records hold no pixels: `SliceMapper` reads a slice when it is needed. Patients are numbered, not named.
    """

    def records() -> list[dict[str, Any]]:
        numbers: dict[str, int] = {}
        return [
            {
                "slice": index,
                "image_id": index,
                "patient": numbers.setdefault(source.patient(index), len(numbers)),
                "height": size,
                "width": size,
            }
            for index in usable_slices(source, unannotated_as_empty)
        ]

    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, records)
    MetadataCatalog.get(name).set(thing_classes=["liver"])
