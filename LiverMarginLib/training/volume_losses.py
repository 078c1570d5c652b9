"""Losses on the logits of classes that exclude each other, for volumetric networks.

All take logits of shape (n, classes, ...), a target of class numbers of shape (n, 1, ...), and an optional weight that
broadcasts to the target. They compute in float32 and return a scalar. The classes of the target are compared, not
gathered: gathering and torch's own cross-entropy have no deterministic gradient on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from LiverMarginLib.errors import InputError
from LiverMarginLib.training.config import LossConfig, LossKind

_KINDS = (LossKind.CE, LossKind.CE_DICE, LossKind.DICE, LossKind.FOCAL)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Return class numbers of shape (n, 1, ...) as 0 and 1 in float32, shape (n, classes, ...)."""
    numbers = torch.arange(classes, device=target.device).view(1, -1, *[1] * (target.ndim - 2))
    return (target == numbers).float()


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy; the mean is weighted by the classes' weights as in `torch.nn.functional.cross_entropy`."""
    entropy = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1, keepdim=True)
    share = torch.ones_like(entropy) if weight is None else weight.expand_as(entropy)
    if class_weights is not None:
        share = share * _of_class(class_weights, target)
    return (entropy * share).sum() / share.sum().clamp(min=torch.finfo(entropy.dtype).eps)


def soft_dice(logits: Tensor, target: Tensor, weight: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice of the whole batch, mean over the classes but the background."""
    probability = functional.softmax(logits, dim=1)[:, 1:]
    target = target[:, 1:]
    overlap, total = probability * target, probability + target
    if weight is not None:
        overlap, total = overlap * weight, total * weight
    axes = (0, *range(2, logits.ndim))
    return (1 - (2 * overlap.sum(axes) + smooth) / (total.sum(axes) + smooth)).mean()


def focal(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
    smooth: float = 1e-5,
) -> Tensor:
    """Focal loss (Lin et al. 2017) of several classes as mlf-core's liver-ct-segmentation has it.

    ``-a_t (1 - p_t)^gamma log p_t`` with p_t the sum of the probabilities, weighted by the target with `smooth` taken
    from its 1 and given to its 0, plus `smooth`. The classes' weights a add up to 1; the mean is a plain one.
    """
    classes = logits.shape[1]
    probability = functional.softmax(logits, dim=1)
    smoothed = target.clamp(smooth / (classes - 1), 1 - smooth)
    chosen = (smoothed * probability).sum(dim=1, keepdim=True) + smooth
    value = -((1 - chosen).clamp(min=0) ** gamma) * chosen.log()
    if class_weights is not None:
        value = value * _of_class(class_weights / class_weights.sum(), target)
    if weight is None:
        return value.mean()
    weight = weight.expand_as(value)
    return (value * weight).sum() / weight.sum().clamp(min=torch.finfo(value.dtype).eps)


def as_annotated(logits: Tensor, known: Tensor) -> Tensor:
    """Let classes that were not annotated in a sample count as the first labelled one, the organ they lie in.

    The likelihood of the organ becomes that of the organ or of any such class, and they themselves become impossible
    (marginal likelihood of partial labels; Shi et al. 2021, doi 10.1016/j.media.2021.101979). So nothing is learnt of
    them there, and their overlap is counted elsewhere.

    Parameters
    ----------
    logits : Tensor, shape (n, classes, ...)
    known : Tensor of bool, shape (n, classes)
        Background and organ are always known.

    Returns
    -------
    Tensor, shape of `logits`
    """
    if bool(known.all()):
        return logits
    known = known.view(*known.shape, *[1] * (logits.ndim - 2))
    impossible = torch.full_like(logits, -1e4)
    rest = torch.where(known, impossible, logits)
    organ = torch.cat((logits[:, 1:2], rest[:, 2:]), dim=1).logsumexp(dim=1, keepdim=True)
    others = torch.where(known, logits, impossible)
    return torch.cat((others[:, :1], organ, others[:, 2:]), dim=1)


def _of_class(class_weights: Tensor, target: Tensor) -> Tensor:
    return (target * class_weights.view(1, -1, *[1] * (target.ndim - 2))).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class VolumeLoss:
    """The loss that `config` describes, for a network of `classes` channels. An object, so that it can be copied.

    Raises
    ------
    InputError
        If the loss is not one for exclusive classes, or has not one weight for each class.
    """

    config: LossConfig
    classes: int

    def __post_init__(self) -> None:
        if self.config.kind not in _KINDS:
            raise InputError(
                f"The loss '{self.config.kind.value}' does not suit this network; choose one of "
                f"{', '.join(kind.value for kind in _KINDS)}."
            )
        weights = self.config.class_weights
        if weights is not None and (len(weights) != self.classes or min(weights) < 0 or sum(weights) <= 0):
            raise InputError(
                f"The loss needs {self.classes} class weights, background first, none of them negative; "
                f"{len(weights)} were given."
            )

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch: logits (n, classes, ...), class numbers (n, 1, ...), weight or None."""
        config = self.config
        logits, exact = logits.float(), one_hot(target, self.classes)
        weights = None
        if config.class_weights is not None:
            weights = torch.tensor(config.class_weights, device=logits.device, dtype=torch.float32)
        match config.kind:
            case LossKind.CE:
                return cross_entropy(logits, exact, weight, weights)
            case LossKind.DICE:
                return soft_dice(logits, exact, weight)
            case LossKind.CE_DICE:
                entropy = cross_entropy(logits, exact, weight, weights)
                return entropy + config.dice_weight * soft_dice(logits, exact, weight)
            case _:
                return focal(logits, exact, weight, weights, config.focal_gamma, config.focal_smooth)
