"""A trained Detectron2 model as a bundle that needs neither Detectron2 nor, with its ONNX graph, torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from LiverMarginLib.errors import BundleError, technical
from LiverMarginLib.models.bundle import Bundle, write_bundle
from LiverMarginLib.models.manifest import ONNX_FILE, SAFETENSORS_FILE, Manifest
from LiverMarginLib.models.maskrcnn import MaskRCNN
from LiverMarginLib.models.maskrcnn_onnx import build_graph
from LiverMarginLib.models.maskrcnn_spec import MaskRCNNSpec
from LiverMarginLib.models.shared_weights import share_weights


def save_mask_rcnn(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    spec: MaskRCNNSpec,
    weights: Mapping[str, Tensor],
    *,
    half: bool = False,
    onnx: bool = True,
    overwrite: bool = False,
) -> Bundle:
    """Write the bundle of a Mask R-CNN that Detectron2 has trained.

    Parameters
    ----------
    folder, half, overwrite
        As for `LiverMarginLib.models.bundle.save_bundle`.
    manifest : Manifest
        Name, labels, window and so on. Architecture, parameters and input size are filled in here; a threshold
        ``score`` replaces that of `spec`.
    spec : MaskRCNNSpec
        What the network computes, such as `DetectronOptions.spec` gives it.
    weights : mapping of str to Tensor
        State dictionary of the Detectron2 model.
    onnx : bool
        Also write the ONNX graph.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If the weights do not fit the spec or are not finite; if the folder is taken.
    DependencyError
        If a package that writes safetensors or ONNX is not installed.
    ResourceError
        If the folder cannot be written.
    """
    import safetensors.torch

    spec = dataclasses.replace(spec, score_threshold=manifest.thresholds.get("score", spec.score_threshold))
    manifest = dataclasses.replace(
        manifest,
        architecture="mask-rcnn",
        parameters=spec.to_dict(),
        input_size=(spec.size, spec.size),
        thresholds={**manifest.thresholds, "score": spec.score_threshold},
    )
    try:
        network = MaskRCNN.from_weights(spec, weights)
    except RuntimeError as error:
        raise BundleError(
            "The weights are not those of the Mask R-CNN that the options describe; use the options of its training.",
            technical(error),
        ) from error
    state = {
        name: tensor.detach().to(torch.float16 if half and tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise BundleError(
            "The network's weights are not finite numbers"
            + (" in half precision; save them in single precision." if half else "; train it again.")
        )
    files = {SAFETENSORS_FILE: safetensors.torch.save(state)}
    if onnx:
        network.load_state_dict(state)  # both forms of the weights hold the same, rounded values
        graph = build_graph(network, half=half)
        files[ONNX_FILE] = share_weights(bytes(graph.SerializeToString()), files[SAFETENSORS_FILE])
    return write_bundle(folder, manifest, files, overwrite=overwrite)
