"""Detectron2 configurations for slices of the liver, without any file of Detectron2's repository.

The default reproduces Table 5 of the liver-margin paper (Mask R-CNN, ResNet-101-FPN) on one-channel images with one
class. Everything is set on `detectron2.config.get_cfg`, whose own defaults hold where nothing is said here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from LiverMarginLib.errors import DependencyError, InputError
from LiverMarginLib.models.maskrcnn_spec import ANCHOR_SIDES, ASPECT_RATIOS, BLOCKS, MaskRCNNSpec, Norm

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

    from LiverMarginLib.models.maskrcnn import MaskRCNN

MASK_SIDES = (28, 56, 112)


@dataclass(frozen=True)
class DetectronOptions:
    """What may be chosen about a Mask R-CNN and its training; the defaults are the liver-margin paper's network.

    Parameters
    ----------
    depth : {18, 34, 50, 101}
        Layers of the residual network.
    mask : {28, 56, 112, "point-rend"}
        Side of the predicted mask. 28 is the paper's and limits the Boundary IoU (docs/detectron2.md); 56 and 112
        look at finer features and predict finer masks; PointRend gives 224.
    norm : {"FrozenBN", "BN", "GN"}
        Normalisation. FrozenBN is for pretrained weights only: its statistics never change.
    freeze_at : int
        Stages of the residual network that are not trained, counted from the stem; 0 for none.
    imagenet : str, optional
        File of a residual network trained on ImageNet, see `detectron_weights`.
    stride_in_1x1 : bool
        Where bottlenecks take their stride: True for MSRA's weights (and the paper), False for torchvision's.
    fpn_channels, box_width, mask_channels : int
        Widths; smaller ones make a small network for a small machine.
    detections : int
        Most instances in a slice.
    rpn_batch, roi_batch : int
        Anchors and proposals that are sampled per image for the losses.
    rate_steps : tuple of float
        Shares of the training after which the learning rate falls to a tenth. Ignored by a cosine schedule.
    min_instance : int
        Smaller pieces of a mask, in pixels, are no instances to learn from.
    pixel_mean, pixel_std : float
        The network sees ``(image - pixel_mean) / pixel_std``, image in [0, 1].
    """

    depth: int = 101
    mask: int | Literal["point-rend"] = 28
    norm: Norm = "BN"
    freeze_at: int = 0
    imagenet: str | None = None
    stride_in_1x1: bool = True
    fpn_channels: int = 256
    box_width: int = 1024
    mask_channels: int = 256
    detections: int = 10
    rpn_batch: int = 256
    roi_batch: int = 128
    rate_steps: tuple[float, ...] = (7 / 9, 25 / 27)
    min_instance: int = 20
    pixel_mean: float = 0.5
    pixel_std: float = 0.25

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise InputError(f"There is no ResNet-{self.depth} here; choose a depth of {_either(BLOCKS)}.")
        if self.mask not in (*MASK_SIDES, "point-rend"):
            raise InputError(f"The mask cannot be {self.mask!r}; choose {_either((*MASK_SIDES, 'point-rend'))}.")
        if self.norm not in ("FrozenBN", "BN", "GN"):
            raise InputError(f"The normalisation cannot be {self.norm!r}; choose FrozenBN, BN or GN.")
        if not 0 <= self.freeze_at <= 5:
            raise InputError(f"freeze_at is {self.freeze_at}; choose 0 (train everything) to 5.")
        if self.imagenet is None and (self.norm == "FrozenBN" or self.freeze_at > 0):
            raise InputError(
                "Frozen layers need trained weights: name a file of ImageNet weights, or train from scratch with the "
                "norm BN or GN and freeze_at 0."
            )
        if self.norm == "GN" and any(width % 32 for width in (self.fpn_channels, self.mask_channels)):
            raise InputError("Group normalisation needs fpn_channels and mask_channels that are multiples of 32.")
        object.__setattr__(self, "rate_steps", tuple(self.rate_steps))

    @classmethod
    def from_mapping(cls, values: Any) -> DetectronOptions:
        """Make options from the ``model_options`` of a training's configuration.

        Raises
        ------
        InputError
            If a name is unknown or a value cannot be used.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"The model has no option '{unknown[0]}'; it has {', '.join(sorted(known))}.")
        return cls(**values)

    def spec(self, size: int) -> MaskRCNNSpec:
        """Return what these options make the network compute on `size` x `size` slices."""
        if size % 32 or size < 64:
            raise InputError(f"The size {size} does not suit Mask R-CNN; choose a multiple of 32 from 64 on.")
        return MaskRCNNSpec(
            depth=self.depth,
            size=size,
            mask_side=224 if self.mask == "point-rend" else int(self.mask),
            point_rend=self.mask == "point-rend",
            norm=self.norm,
            stride_in_1x1=self.stride_in_1x1,
            fpn_channels=self.fpn_channels,
            box_width=self.box_width,
            mask_channels=self.mask_channels,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            detections=self.detections,
        )


@dataclass(frozen=True)
class SolverOptions:
    """The part of the configuration that only training looks at."""

    iterations: int = 270_000
    batch: int = 16
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: int = 1000
    cosine: bool = False
    mixed_precision: bool = False
    device: str = "cpu"
    seed: int = 0
    rate_steps: tuple[float, ...] = field(default=(7 / 9, 25 / 27))


def import_detectron2() -> Any:
    """Import Detectron2, or say how to get it.

    Raises
    ------
    DependencyError
    """
    try:
        import detectron2
        import torchvision  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "Detectron2 is not installed in this Python; run scripts/install_detectron2.py with it.", str(error)
        ) from error
    return detectron2


def build_config(options: DetectronOptions, size: int = 512, solver: SolverOptions | None = None) -> CfgNode:
    """Make the Detectron2 configuration.

    Parameters
    ----------
    options : DetectronOptions
    size : int
        Side of the square input, pixels.
    solver : SolverOptions, optional

    Returns
    -------
    CfgNode

    Raises
    ------
    InputError
        If the size does not suit the network.
    DependencyError
        If Detectron2 is not installed, or PointRend is asked for and did not come with it.
    """
    import_detectron2()
    from detectron2.config import get_cfg

    from LiverMarginLib.models import detectron_heads

    spec, solver = options.spec(size), solver or SolverOptions()
    cfg = get_cfg()
    detectron_heads.add_options(cfg)
    model = cfg.MODEL
    model.DEVICE = solver.device
    model.WEIGHTS = ""
    model.MASK_ON = True
    model.PIXEL_MEAN, model.PIXEL_STD = [spec.pixel_mean], [spec.pixel_std]  # of length one: a one-channel stem

    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.BACKBONE.FREEZE_AT = options.freeze_at
    model.RESNETS.DEPTH = spec.depth
    model.RESNETS.NORM = spec.norm
    model.RESNETS.STRIDE_IN_1X1 = spec.stride_in_1x1
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    model.RESNETS.RES2_OUT_CHANNELS = 64 if spec.depth < 50 else 256
    model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.OUT_CHANNELS = spec.fpn_channels
    model.FPN.NORM = model.ROI_MASK_HEAD.NORM = "GN" if spec.norm == "GN" else ""

    model.ANCHOR_GENERATOR.SIZES = [[side] for side in ANCHOR_SIDES]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(ASPECT_RATIOS)]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.PRE_NMS_TOPK_TEST = 2000, spec.pre_nms
    model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST = 1000, spec.post_nms
    model.RPN.NMS_THRESH = spec.rpn_nms
    model.RPN.BATCH_SIZE_PER_IMAGE = options.rpn_batch

    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model.ROI_HEADS.NUM_CLASSES = 1
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = options.roi_batch
    model.ROI_HEADS.SCORE_THRESH_TEST = spec.min_score
    model.ROI_HEADS.NMS_THRESH_TEST = spec.box_nms
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC = 2
    model.ROI_BOX_HEAD.FC_DIM = spec.box_width
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    model.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    model.ROI_MASK_HEAD.NUM_CONV = 4
    model.ROI_MASK_HEAD.CONV_DIM = spec.mask_channels
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = spec.pooled_mask_side
    if spec.point_rend:
        detectron_heads.add_point_rend(cfg, spec)
    elif spec.mask_side != 28:
        detectron_heads.add_fine_masks(cfg, spec)

    _set_data(cfg, size)
    _set_solver(cfg, solver)
    cfg.TEST.DETECTIONS_PER_IMAGE = spec.detections
    return cfg


def _set_data(cfg: CfgNode, size: int) -> None:
    cfg.INPUT.FORMAT = "L"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (size,), size
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = size, size
    # Polygons have no holes; the liver has (vessels, the gallbladder's bed).
    cfg.INPUT.MASK_FORMAT = "bitmask"
    # A mirrored liver is situs inversus.
    cfg.INPUT.RANDOM_FLIP = "none"
    # Most slices of an abdomen show no liver; without them the network finds livers in the chest and the pelvis.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.NUM_WORKERS = 0


def _set_solver(cfg: CfgNode, solver: SolverOptions) -> None:
    cfg.SEED = solver.seed
    cfg.SOLVER.IMS_PER_BATCH = solver.batch
    cfg.SOLVER.BASE_LR = solver.learning_rate
    cfg.SOLVER.MOMENTUM = solver.momentum
    cfg.SOLVER.WEIGHT_DECAY = solver.weight_decay
    cfg.SOLVER.MAX_ITER = solver.iterations
    # A warm-up must leave something to train, and the rate may only fall after it.
    cfg.SOLVER.WARMUP_ITERS = min(solver.warmup, solver.iterations // 4)
    cfg.SOLVER.STEPS = tuple(sorted({max(1, round(share * solver.iterations)) for share in solver.rate_steps}))
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR" if solver.cosine else "WarmupMultiStepLR"
    cfg.SOLVER.AMP.ENABLED = solver.mixed_precision


def build_model(cfg: CfgNode) -> nn.Module:
    """Build Detectron2's own model of a configuration, with random weights, on the configuration's device."""
    from detectron2.modeling import build_model as build

    return build(cfg)


def to_plain(model: nn.Module, spec: MaskRCNNSpec) -> MaskRCNN:
    """Copy a Detectron2 model into the plain network that runs without Detectron2."""
    from LiverMarginLib.models.maskrcnn import MaskRCNN

    return MaskRCNN.from_weights(spec, {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})


def _either(values: Any) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}"
