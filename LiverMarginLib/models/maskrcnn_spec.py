"""What a Mask R-CNN of LiverMargin is, apart from its weights; needs no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from LiverMarginLib.models.json_reader import JsonObject, JsonProblem

if TYPE_CHECKING:
    from LiverMarginLib.models.manifest import Manifest

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
LEVEL_STRIDES = (4, 8, 16, 32, 64)
ANCHOR_SIDES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
# A box of this side belongs to the level of stride 16 (FPN, equation 1).
CANONICAL_BOX_SIDE = 224
CANONICAL_LEVEL = 4

# exp of this is the largest growth that a box correction can ask for (Detectron2: a 16-pixel box made 1000).
MAX_LOG_GROWTH = math.log(1000.0 / 16)
BOX_REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

Norm = Literal["FrozenBN", "BN", "GN"]


@dataclass(frozen=True)
class MaskRCNNSpec:
    """Everything that, beside the weights, decides what a Mask R-CNN computes.

    Attributes
    ----------
    depth : {18, 34, 50, 101}
        Layers of the residual network.
    size : int
        Side of the square input, pixels; a multiple of 32.
    mask_side : int
        Side of the predicted mask: 28 (the paper's), 56 or 112; 224 with `point_rend`.
    point_rend : bool
        Whether the mask comes from PointRend's point head.
    norm : {"FrozenBN", "BN", "GN"}
        Normalisation of the residual network; "GN" also normalises the pyramid and the mask head.
    stride_in_1x1 : bool
        Where bottleneck blocks take their stride: in the 1 x 1 convolution (MSRA) or the 3 x 3 one (torchvision).
    fpn_channels, box_width, mask_channels : int
        Widths of the pyramid, of the two fully connected layers and of the mask head; 256, 1024, 256 in the paper.
    pixel_mean, pixel_std : float
        The network sees ``(image - pixel_mean) / pixel_std``, image in [0, 1].
    detections : int
        Most boxes kept in an image.
    pre_nms, post_nms : int
        Proposals kept per level before, and per image after, non-maximum suppression.
    rpn_nms, box_nms : float
        IoU above which the weaker of two boxes is dropped.
    min_score : float
        Boxes of a score up to this are dropped before suppression.
    score_threshold : float
        Instances of at least this score make up the liver.
    """

    depth: int = 101
    size: int = 512
    mask_side: int = 28
    point_rend: bool = False
    norm: Norm = "FrozenBN"
    stride_in_1x1: bool = True
    fpn_channels: int = 256
    box_width: int = 1024
    mask_channels: int = 256
    pixel_mean: float = 0.5
    pixel_std: float = 0.25
    detections: int = 10
    pre_nms: int = 1000
    post_nms: int = 1000
    rpn_nms: float = 0.7
    box_nms: float = 0.5
    min_score: float = 0.05
    score_threshold: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serialisable values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskRCNNSpec:
        """Rebuild a spec from `to_dict`; unknown names raise `TypeError`."""
        return cls(**values)

    @property
    def pooled_mask_side(self) -> int:
        """Side of the features that the convolutional mask head starts from."""
        return 14 if self.mask_side == 28 else 28

    @property
    def deconvolutions(self) -> int:
        """How often the convolutional mask head doubles that side."""
        return int(math.log2(self.mask_side // self.pooled_mask_side))

    @property
    def mask_levels(self) -> int:
        """How many pyramid levels, from p2 on, the mask head looks at.

        The paper's 28 x 28 head chooses among p2 to p5 by the size of the box: a liver falls on p4, where it is some
        14 cells wide. A finer mask needs finer features, so the others look at p2 alone, like PointRend.
        """
        return 4 if self.mask_side == 28 and not self.point_rend else 1


def check_manifest(manifest: Manifest) -> None:
    """Check the parameters of a bundle's Mask R-CNN; every size is bounded, for nothing has been allocated yet.

    Raises
    ------
    JsonProblem
        With a clause that says what is wrong.
    """
    given = JsonObject(dict(manifest.parameters), "the Mask R-CNN's parameters")
    depth, size, side = given.integer("depth"), given.integer("size"), given.integer("mask_side")
    point_rend = given.flag("point_rend")
    given.flag("stride_in_1x1")
    if depth not in BLOCKS:
        raise JsonProblem(f"there is no ResNet-{depth}")
    if manifest.input_size != (size, size) or size % 32 or not 64 <= size <= 2048:
        raise JsonProblem("the Mask R-CNN's size contradicts input_size or is not a multiple of 32 from 64 to 2048")
    if side not in ((224,) if point_rend else (28, 56, 112)):
        raise JsonProblem("the Mask R-CNN's mask_side must be 28, 56 or 112, or 224 with point_rend")
    if given.text("norm") not in ("FrozenBN", "BN", "GN"):
        raise JsonProblem("the Mask R-CNN's norm must be FrozenBN, BN or GN")
    for name in ("fpn_channels", "box_width", "mask_channels", "detections", "pre_nms", "post_nms"):
        if not 1 <= given.integer(name) <= 4096:
            raise JsonProblem(f"the Mask R-CNN's {name} must be 1 to 4096")
    for name in ("rpn_nms", "box_nms", "min_score", "score_threshold"):
        if not 0 <= given.number(name) <= 1:
            raise JsonProblem(f"the Mask R-CNN's {name} must lie between 0 and 1")
    if given.number("pixel_std") <= 0 or not math.isfinite(given.number("pixel_mean")):
        raise JsonProblem("the Mask R-CNN's pixel_std must be positive and its pixel_mean finite")
    given.finish()
    if manifest.channels != 1 or len(manifest.labels) != 1:
        raise JsonProblem("Mask R-CNN sees one slice and finds one label")
    score = manifest.parameters["score_threshold"]
    if manifest.thresholds.get("score", score) != score:
        raise JsonProblem("the threshold 'score' contradicts the Mask R-CNN's score_threshold")
