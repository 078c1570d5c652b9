"""Parts that Detectron2 lacks for masks finer than 28 x 28, entered into its registries.

Importing this module needs Detectron2; `detectron_config` does so on demand.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ConvTranspose2d, ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from fvcore.nn import weight_init
from torch import nn

from LiverMarginLib.errors import DependencyError, technical
from LiverMarginLib.models.maskrcnn_spec import MaskRCNNSpec


def add_options(cfg: CfgNode) -> None:
    """Add the configuration entries that the parts below read."""
    cfg.MODEL.ROI_MASK_HEAD.NUM_DECONV = 1
    cfg.MODEL.ROI_MASK_HEAD.MASK_IN_FEATURES = []


def add_fine_masks(cfg: CfgNode, spec: MaskRCNNSpec) -> None:
    """Configure a 56 x 56 or 112 x 112 mask head on the finest features."""
    cfg.MODEL.ROI_HEADS.NAME = FineMaskROIHeads.__name__
    cfg.MODEL.ROI_MASK_HEAD.NAME = FineMaskHead.__name__
    cfg.MODEL.ROI_MASK_HEAD.NUM_DECONV = spec.deconvolutions
    cfg.MODEL.ROI_MASK_HEAD.MASK_IN_FEATURES = ["p2"]


def add_point_rend(cfg: CfgNode, spec: MaskRCNNSpec) -> None:
    """Configure PointRend's mask head.

    Raises
    ------
    DependencyError
        If PointRend, one of Detectron2's projects, was not installed with it.
    """
    try:
        from detectron2.projects.point_rend import add_pointrend_config
    except ImportError as error:
        raise DependencyError(
            "This Detectron2 came without PointRend: run scripts/install_detectron2.py again (with --source, the "
            "folder must hold projects/PointRend), or choose a mask of 28, 56 or 112.",
            technical(error),
        ) from error
    add_pointrend_config(cfg)
    head = cfg.MODEL.ROI_MASK_HEAD
    head.NAME, head.POOLER_TYPE, head.POINT_HEAD_ON = "PointRendMaskHead", "", True
    head.POOLER_RESOLUTION = 14
    head.FC_DIM, head.NUM_FC, head.OUTPUT_SIDE_RESOLUTION = spec.box_width, 2, 7
    head.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    point = cfg.MODEL.POINT_HEAD
    point.NUM_CLASSES, point.FC_DIM, point.NUM_FC, point.IN_FEATURES = 1, 256, 3, ["p2"]


@ROI_MASK_HEAD_REGISTRY.register()
class FineMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with as many doublings as ``MODEL.ROI_MASK_HEAD.NUM_DECONV`` says."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__(cfg, input_shape)
        channels = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
        # A Sequential in all but name: what comes after the first doubling moves behind the further ones.
        predictor = self.predictor
        del self.predictor
        for index in range(2, cfg.MODEL.ROI_MASK_HEAD.NUM_DECONV + 1):
            doubling = ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
            weight_init.c2_msra_fill(doubling)
            self.add_module(f"deconv{index}", doubling)
            self.add_module(f"deconv{index}_relu", nn.ReLU())
        self.add_module("predictor", predictor)


@ROI_HEADS_REGISTRY.register()
class FineMaskROIHeads(StandardROIHeads):
    """Detectron2's heads, the mask head of which looks at levels of its own (``MASK_IN_FEATURES``)."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        narrowed = cfg.clone()
        narrowed.defrost()
        narrowed.MODEL.ROI_HEADS.IN_FEATURES = cfg.MODEL.ROI_MASK_HEAD.MASK_IN_FEATURES
        made: dict[str, Any] = super()._init_mask_head(narrowed, input_shape)
        return made
