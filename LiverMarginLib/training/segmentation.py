"""Learning to segment the liver slice by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverMarginLib.errors import InputError
from LiverMarginLib.preprocessing import fit_in_plane, window_to_unit
from LiverMarginLib.training.augmentation import Augmentation
from LiverMarginLib.training.config import LossKind, TrainConfig
from LiverMarginLib.training.data import SliceSample, Source, read_slice
from LiverMarginLib.training.loader import Batch, Item
from LiverMarginLib.training.losses import SegmentationLoss
from LiverMarginLib.training.task import Scores, Sums, Task

# Probabilities are counted in steps of 1 %, so that every threshold can be judged after one pass.
_BINS = 101
_HALF = 50


class SegmentationTask(Task):
    """The U-Net's task.

    A slice, with its neighbours if the network sees them, is windowed and fitted to the network's input exactly as
    inference does it, varied, and compared with its mask. Validation counts on the network's grid: Mask IoU per patient
    (all slices of a patient pooled; the mean over patients who have liver is the monitored score), Mask IoU per slice
    with liver, and the share of slices without liver in which some was found.
    """

    monitor = training_monitor = "mask_iou"
    sees_context = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if config.loss.kind in (LossKind.MSE_SSIM, LossKind.CE, LossKind.CE_DICE):
            raise InputError(
                f"The loss '{config.loss.kind}' does not suit a network of slices; choose bce, dice, bce-dice or focal."
            )
        self._loss = SegmentationLoss(config.loss)
        self._augmentation = Augmentation(config.augmentation, config.seed)

    def build_model(self) -> nn.Module:
        """The U-Net of Table 4, or another one by the model options."""
        from LiverMarginLib.models.unet import UNet

        options = known_options(self.config.model_options, {"classes", "widths", "dropout"})
        model = UNet(self.config.slice_context.channels, **options)
        step = 2 ** (len(model.encoder) - 1)
        if self.config.size % step:
            raise InputError(f"The size {self.config.size} does not suit this U-Net; choose a multiple of {step}.")
        return model

    def read_training(self, source: Source, index: int, sample: int) -> Item:
        """Read ``image``, ``mask`` and ``weight``, shapes (c, size, size), (1, size, size) and (1, 1, 1)."""
        return self._prepare(read_slice(source, index, self.config.slice_context))

    def read_validation(self, source: Source, index: int, group: int) -> Item:
        """Read the same, and ``group``."""
        return {**self._prepare(read_slice(source, index, self.config.slice_context)), "group": np.array(group)}

    def _prepare(self, sample: SliceSample) -> Item:
        size = self.config.size
        fit = fit_in_plane(sample.mask.shape, sample.spacing, (size, size))  # type: ignore[arg-type]  # two axes
        mask = sample.mask > 0
        if not fit.is_identity:
            mask = fit.to_network(mask.astype(np.float32)) >= 0.5
        return {
            "image": fit.to_network(window_to_unit(sample.image, *self.config.window)).reshape(-1, size, size),
            "mask": mask[None].astype(np.uint8),
            "weight": np.full((1, 1, 1), sample.weight, dtype=np.float32),
        }

    def vary(self, batch: Batch) -> Batch:
        """Augment."""
        image, mask = self._augmentation(batch.tensors["image"], batch.tensors["mask"].float(), batch.samples)
        return Batch(batch.samples, {**batch.tensors, "image": image, "mask": mask})

    def learn(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, and the overlap at probability one half."""
        mask = batch.tensors["mask"]
        logits = model(batch.tensors["image"])
        loss = self._loss(logits, mask, batch.tensors["weight"])
        found, wanted = logits.detach() >= 0, mask > 0.5
        return loss, {
            "loss": loss.detach() * len(batch.samples),
            "n": torch.tensor(len(batch.samples), device=logits.device),
            "intersection": (found & wanted).sum(),
            "union": (found | wanted).sum(),
        }

    def training_scores(self, sums: Sums) -> Scores:
        """Mean loss, and the Mask IoU of all pixels of the epoch, as augmented and with dropout."""
        return {
            "loss": _ratio(sums["loss"], sums["n"]),
            "mask_iou": _ratio(sums["intersection"], sums["union"]),
        }

    def validate(self, model: nn.Module, batch: Batch, groups: int) -> dict[str, np.ndarray]:
        """Count the pixels of each patient by class and probability."""
        mask = batch.tensors["mask"]
        logits = model(batch.tensors["image"]).float()
        loss = self._loss(logits, mask.float(), batch.tensors["weight"])
        percent = (torch.sigmoid(logits) * 100).to(torch.uint8).cpu().numpy()
        liver = mask.cpu().numpy() > 0
        counts = np.zeros((groups, 2, _BINS))
        slices = np.zeros(4)  # sum of IoU, slices with liver, slices with false liver, slices without liver
        for n, group in enumerate(batch.tensors["group"].tolist()):
            found = np.bincount((percent[n] + _BINS * liver[n].astype(np.intp)).ravel(), minlength=2 * _BINS)
            found = found.reshape(2, _BINS)
            counts[group] += found
            wanted, right, wrong = found[1].sum(), found[1, _HALF:].sum(), found[0, _HALF:].sum()
            slices += (right / (wanted + wrong), 1, 0, 0) if wanted else (0, 0, wrong > 0, 1)
        n_slices = np.array(float(len(batch.samples)))
        return {"loss": np.array(float(loss)) * n_slices, "n": n_slices, "counts": counts, "slices": slices}

    def validation_scores(self, sums: Sums) -> Scores:
        """Compute ``mask_iou`` (mean over patients), ``slice_mask_iou`` and ``false_liver_slices`` (a share)."""
        iou, with_liver, false, without_liver = sums["slices"]
        return {
            "loss": _ratio(sums["loss"], sums["n"]),
            "mask_iou": float(patient_iou(sums["counts"])[_HALF]),
            "slice_mask_iou": _ratio(iou, with_liver),
            "false_liver_slices": _ratio(false, without_liver),
        }

    def thresholds(self, sums: Sums) -> dict[str, float]:
        """Return the probability ``mask`` in [0.05, 0.95] of the highest patient Mask IoU, nearest 0.5 of equals."""
        curve = patient_iou(sums["counts"])
        if np.isnan(curve).all():
            return {"mask": 0.5}
        candidates = range(5, 96)
        best = max(candidates, key=lambda k: (curve[k], -abs(k - _HALF)))
        return {"mask": best / 100}


def patient_iou(counts: np.ndarray) -> np.ndarray:
    """Return the Mask IoU at each threshold, averaged over the patients who have liver.

    Parameters
    ----------
    counts : ndarray, shape (patients, 2, 101)
        Pixels by class (background, liver) and by probability in whole percent, rounded down.

    Returns
    -------
    ndarray of float64, shape (101,)
        For "probability >= k %"; not a number where no patient has liver.
    """
    counts = counts[counts[:, 1].sum(axis=1) > 0]
    if len(counts) == 0:
        return np.full(_BINS, np.nan)
    above = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]
    wanted = counts[:, 1].sum(axis=1, keepdims=True)
    return np.asarray((above[:, 1] / (wanted + above[:, 0])).mean(axis=0))


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def known_options(options: Any, known: set[str]) -> dict[str, Any]:
    """Return a network's options, refusing unknown ones by `InputError`."""
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"The model has no option '{unknown[0]}'; it has {', '.join(sorted(known))}.")
    return dict(options)
