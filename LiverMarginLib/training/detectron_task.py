"""Learning liver instances with Detectron2's Mask R-CNN.

The trainer's loop, its checkpoints and curves are the same as for every network; each step is one of Detectron2's own
training engine (`detectron_engine`), on Detectron2's own model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.detectron_config import (
    DetectronOptions,
    SolverOptions,
    build_config,
    build_model,
    import_detectron2,
)
from LiverMarginLib.training.config import Decay, TrainConfig
from LiverMarginLib.training.distributed import Group
from LiverMarginLib.training.engine import Engine
from LiverMarginLib.training.loader import Batch
from LiverMarginLib.training.segmentation import SegmentationTask, patient_iou
from LiverMarginLib.training.task import Scores, Sums

LOSSES = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_mask_point")
# Scores of instances are counted in steps of 1 %, so that every threshold can be judged after one pass.
_BINS = 101
_CANDIDATES = range(5, 96)


class DetectronTask(SegmentationTask):
    """The task of Detectron2's Mask R-CNN.

    Slices are read, windowed, fitted and varied as the U-Net's are. The prediction is the union of the instances of at
    least a threshold's score, which is tuned on the validation patients; the scores are those of `SegmentationTask`,
    at that threshold.
    """

    monitor = "mask_iou"
    training_monitor = ""

    def __init__(self, config: TrainConfig) -> None:
        import_detectron2()
        super().__init__(config)
        self.options = DetectronOptions.from_mapping(config.model_options)
        if config.schedule.decay not in (Decay.CONSTANT, Decay.COSINE):
            raise InputError(
                "Detectron2's learning rate follows the decay 'cosine', or 'constant' with the model option rate_steps."
            )

    def detectron_config(self, iterations: int) -> Any:
        """Return the Detectron2 configuration of a training of so many steps."""
        config, optimiser, schedule = self.config, self.config.optimiser, self.config.schedule
        solver = SolverOptions(
            iterations=iterations,
            batch=config.batch,
            learning_rate=optimiser.learning_rate,
            momentum=optimiser.momentum,
            weight_decay=optimiser.weight_decay,
            warmup=schedule.warmup_steps,
            cosine=schedule.decay is Decay.COSINE,
            seed=config.seed,
            rate_steps=self.options.rate_steps,
        )
        return build_config(self.options, config.size, solver)

    def build_model(self) -> nn.Module:
        """Detectron2's model, on the CPU, with ImageNet weights if the options name a file."""
        model = build_model(self.detectron_config(iterations=1))
        if self.options.imagenet is not None:
            from LiverMarginLib.models.detectron_weights import load_imagenet

            load_imagenet(model, self.options)
        return model

    def engine(self, device: torch.device, group: Group, total_steps: int) -> Engine:
        """Detectron2's."""
        from LiverMarginLib.training.detectron_engine import DetectronEngine

        return DetectronEngine(self, self.config, device, group, total_steps)

    def inputs(self, batch: Batch) -> list[dict[str, Any]]:
        """Return a batch as Detectron2's models take it."""
        from LiverMarginLib.training.detectron_data import model_input

        pairs = zip(batch.tensors["image"], batch.tensors["mask"], strict=True)
        return [model_input(image, mask, self.options.min_instance) for image, mask in pairs]

    def learn(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of Detectron2's losses, which it computes in training mode only."""
        from detectron2.utils.events import EventStorage

        with EventStorage():
            losses = model(self.inputs(batch))
        loss: Tensor = sum(losses.values())  # type: ignore[assignment]
        return loss, self.sums({name: value.detach() for name, value in losses.items()}, len(batch.samples))

    @staticmethod
    def sums(losses: dict[str, Any], count: int) -> dict[str, Tensor]:
        """Return a step's losses as sums over its samples; ``loss`` is their total."""
        values = {name: torch.as_tensor(losses[name]) for name in LOSSES if name in losses}
        total = torch.stack([value.float() for value in values.values()]).sum()
        return {"n": torch.tensor(count), "loss": total * count} | {name: v * count for name, v in values.items()}

    def training_scores(self, sums: Sums) -> Scores:
        """Mean loss, and its parts."""
        return {name: float(sums[name] / sums["n"]) for name in ("loss", *LOSSES) if name in sums}

    def validate(self, model: nn.Module, batch: Batch, groups: int) -> dict[str, np.ndarray]:
        """Count the pixels of each patient by class and by the best score of an instance that covers them."""
        mask = batch.tensors["mask"].cpu().numpy()[:, 0] > 0
        percent = np.floor(score_maps(model, batch.tensors["image"]) * 100).astype(np.intp)
        counts = np.zeros((groups, 2, _BINS))
        slices = np.zeros((3, _BINS))  # by threshold: sum of IoU, slices with false liver; with and without liver
        for n, group in enumerate(batch.tensors["group"].tolist()):
            found = np.bincount((percent[n] + _BINS * mask[n]).ravel(), minlength=2 * _BINS).reshape(2, _BINS)
            counts[group] += found
            wrong, right = found[:, ::-1].cumsum(axis=1)[:, ::-1]
            wanted = mask[n].sum()
            slices[0 if wanted else 1] += right / (wanted + wrong) if wanted else wrong > 0
            slices[2, 0 if wanted else 1] += 1
        return {
            "loss": np.array(self._validation_loss(model, batch) * len(batch.samples)),
            "n": np.array(float(len(batch.samples))),
            "counts": counts,
            "slices": slices,
        }

    def _validation_loss(self, model: nn.Module, batch: Batch) -> float:
        """Compute the loss in training mode without a trace: no gradients, statistics or random numbers change."""
        devices = [batch.tensors["image"].device] if batch.tensors["image"].is_cuda else []
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.config.seed)  # the same anchors and proposals at every validation
            model.train()
            for norm in norms:
                norm.eval()
            try:
                loss, _ = self.learn(model, batch)
            finally:
                model.eval()
        return float(loss)

    def validation_scores(self, sums: Sums) -> Scores:
        """Compute the scores of `SegmentationTask.validation_scores` at the tuned threshold."""
        best = round(self.thresholds(sums)["score"] * 100)
        iou, false, numbers = sums["slices"]
        return {
            "loss": float(sums["loss"] / sums["n"]),
            "mask_iou": float(patient_iou(sums["counts"])[best]),
            "slice_mask_iou": float(iou[best] / numbers[0]) if numbers[0] else float("nan"),
            "false_liver_slices": float(false[best] / numbers[1]) if numbers[1] else float("nan"),
            "score_threshold": best / 100,
        }

    def thresholds(self, sums: Sums) -> dict[str, float]:
        """Return the ``score`` of the highest patient Mask IoU, nearest 0.5 of equals."""
        curve = patient_iou(sums["counts"])
        if np.isnan(curve).all():
            return {"score": 0.5}
        return {"score": max(_CANDIDATES, key=lambda k: (curve[k], -abs(k - 50))) / 100}


@torch.no_grad()
def score_maps(model: nn.Module, images: Tensor) -> np.ndarray:
    """Predict with Detectron2's own model, and paste with its own function.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    images : Tensor
        Shape (n, 1, h, w), float32 in [0, 1].

    Returns
    -------
    ndarray of float32, shape (n, h, w)
        The best score of the instances whose mask covers a pixel, 0 where there is none; the union of the instances
        of score t and more is where this is at least t.
    """
    outputs = model([{"image": image, "height": image.shape[1], "width": image.shape[2]} for image in images])
    maps = np.zeros((len(images), *images.shape[2:]), dtype=np.float32)
    for n, output in enumerate(outputs):
        instances = output["instances"]
        if len(instances):
            covered = instances.pred_masks.float() * instances.scores.float()[:, None, None]
            maps[n] = covered.amax(dim=0).cpu().numpy()
    return maps
