"""Mask R-CNN as bundles name it; the network itself is in `LiverMarginLib.models.maskrcnn_torch`, which needs torch."""

from __future__ import annotations

from LiverMarginLib.models.architectures import Activation, Architecture
from LiverMarginLib.models.maskrcnn_spec import check_manifest

MASK_RCNN = Architecture(
    name="mask-rcnn",
    check=check_manifest,
    segmenter="LiverMarginLib.inference.backends:load_dense",
    module="LiverMarginLib.models.maskrcnn_torch:MaskRCNNSegmentation",
    # Its masks are probabilities already.
    activation=Activation.IDENTITY,
)
