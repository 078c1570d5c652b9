"""Starting a training from the weights of another: a shipped model that is adapted to one's own images."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from LiverMarginLib.errors import BundleError, InputError
from LiverMarginLib.training.checkpoint import load_weights

_LOG = logging.getLogger(__name__)


@torch.no_grad()
def load_initial(model: nn.Module, source: str) -> int:
    """Copy the weights that fit, by name and shape; the other layers stay as they were made.

    A Mask R-CNN with finer masks, for example, takes everything but its mask head from one with coarse masks.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    source : str
        Name or folder of a bundle, or a ``.safetensors`` file, such as a training's best weights.

    Returns
    -------
    int
        Number of layers' tensors that were copied.

    Raises
    ------
    InputError
        If nothing fits.
    BundleError
        If there is no such bundle, or it is damaged or holds no weights for torch.
    """
    weights = load_weights(weights_file(source))
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise InputError("None of the initial weights fits the network; choose a model of the same architecture.")
    for name, tensor in fitting.items():
        own[name].copy_(tensor)
    _LOG.info("%d of %d tensors were taken from the initial weights", len(fitting), len(own))
    return len(fitting)


def weights_file(source: str) -> Path:
    """Find the file behind a `source` of `load_initial`, which also says what is raised."""
    from LiverMarginLib.models.manifest import SAFETENSORS_FILE
    from LiverMarginLib.models.store import find_bundle

    if source.endswith(".safetensors"):
        return Path(source)
    bundle = find_bundle(source)
    if not bundle.has(SAFETENSORS_FILE):
        raise BundleError(f"The model {bundle.manifest.name!r} has no weights for torch to start from; choose another.")
    return bundle.folder / SAFETENSORS_FILE
