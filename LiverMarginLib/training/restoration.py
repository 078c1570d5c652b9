"""Learning to denoise: DnCNN-SR on pairs that are made from clean slices."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.dncnn_sr import DnCNNSR, enlarge
from LiverMarginLib.preprocessing import window_to_unit
from LiverMarginLib.training.config import LossKind, TrainConfig
from LiverMarginLib.training.data import Source
from LiverMarginLib.training.degradation import Degradation
from LiverMarginLib.training.determinism import Purpose, keyed_rng
from LiverMarginLib.training.image_quality import image_quality
from LiverMarginLib.training.loader import Batch, Item
from LiverMarginLib.training.losses import restoration_loss
from LiverMarginLib.training.task import Scores, Sums, Task

_QUALITIES = ("psnr", "ssim", "psnr_body", "ssim_body")
_SMALLEST = 16  # one 11 x 11 SSIM window, and two halvings
_TRIES = 4


@torch.no_grad()
def constant_image_error(model: nn.Module, side: int = 128) -> float:
    """Return by how much a noise-free image of one grey value changes at most, in units of the window.

    Parameters
    ----------
    model : Module
        DnCNN-SR on the CPU; put into evaluation mode.
    side : int
        Of the images.
    """
    model.eval()
    levels = torch.linspace(0, 1, 11).view(-1, 1, 1, 1)
    restored = torch.cat([model(level.expand(1, 1, side, side)) for level in levels[:, None]])
    return float((restored.clamp(0, 1) - levels).abs().max())


class RestorationTask(Task):
    """DnCNN-SR's task: patches for training, whole slices for validation; masks are not used.

    Slices are windowed but never resampled, which would change the noise. Validation degrades each slice in the same
    way every time, and gives PSNR and SSIM of the output, and their gain over the (bicubically enlarged) input; the
    monitored score is the PSNR in the body.
    """

    monitor = "psnr_body"
    training_monitor = "psnr"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if config.loss.kind is not LossKind.MSE_SSIM:
            raise InputError("DnCNN-SR learns with the loss 'mse-ssim'; the others compare masks.")
        scale = config.model_options.get("scale", 1)
        if scale not in (1, 2):
            raise InputError(f"DnCNN-SR cannot enlarge by {scale}; choose 1 or 2.")
        if config.size % scale or config.size < _SMALLEST:
            raise InputError(f"Patches of {config.size} pixels do not suit; choose an even size from {_SMALLEST} up.")
        self.scale = int(scale)
        width = config.window[1] - config.window[0]
        self._degrade = Degradation(config.degradation, self.scale, width, config.seed)
        # Validation is the same for all seeds, so that trainings can be compared, and always has something to remove:
        # the PSNR of an undegraded slice is infinite.
        degraded = replace(config.degradation, identity_p=0.0, flat_p=0.0)
        self._degrade_same = Degradation(degraded, self.scale, width, 0, Purpose.VALIDATION)

    def build_model(self) -> nn.Module:
        """DnCNN-SR at the scale and width of the model options."""
        unknown = sorted(set(self.config.model_options) - {"scale", "width"})
        if unknown:
            raise InputError(f"DnCNN-SR has no option '{unknown[0]}'; it has scale and width.")
        return DnCNNSR(**self.config.model_options)

    @property
    def validation_batch(self) -> int:
        """One, because slices of several patients differ in size."""
        return 1

    def read_training(self, source: Source, index: int, sample: int) -> Item:
        """Cut a patch ``clean`` of shape (1, size, size), of the body where a few tries find it."""
        image = window_to_unit(source.read(index).image, *self.config.window)
        side = self.config.size
        image = np.pad(image, [(0, max(0, side - n)) for n in image.shape])
        rng = keyed_rng(self.config.seed, Purpose.PATCH, sample)
        for _ in range(_TRIES):
            row, column = (int(rng.integers(0, n - side + 1)) for n in image.shape)
            patch = image[row : row + side, column : column + side]
            if np.count_nonzero(patch) > patch.size // 2:
                break
        return {"clean": np.ascontiguousarray(patch[None])}

    def read_validation(self, source: Source, index: int, group: int) -> Item:
        """Read ``clean``, the whole slice cut to an even size, and ``group``."""
        image = window_to_unit(source.read(index).image, *self.config.window)
        height, width = (n - n % self.scale for n in image.shape)
        return {"clean": image[None, :height, :width].copy(), "group": np.array(group)}

    def vary(self, batch: Batch) -> Batch:
        """Degrade."""
        clean, noisy = self._degrade(batch.tensors["clean"], batch.samples)
        return Batch(batch.samples, {"clean": clean, "noisy": noisy})

    def learn(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the balanced loss, and the squared error."""
        clean = batch.tensors["clean"]
        restored = model(batch.tensors["noisy"])
        loss = self._loss(restored, clean)
        n = torch.tensor(len(batch.samples), device=clean.device)
        return loss, {"loss": loss.detach() * n, "n": n, "mse": functional.mse_loss(restored.detach(), clean) * n}

    def _loss(self, restored: Tensor, clean: Tensor) -> Tensor:
        return restoration_loss(restored, clean, self.config.loss.mse_weight, self.config.loss.ssim_weight)

    def training_scores(self, sums: Sums) -> Scores:
        """Mean loss, and the PSNR of all patches together."""
        n, mse = float(sums["n"]), float(sums["mse"])
        return {"loss": float(sums["loss"]) / n, "psnr": -10 * float(np.log10(max(mse / n, 1e-12)))}

    def validate(self, model: nn.Module, batch: Batch, groups: int) -> dict[str, np.ndarray]:
        """Sum the qualities of output and input, per patient."""
        clean = batch.tensors["clean"]
        _, noisy = self._degrade_same(clean, batch.samples)
        restored = model(noisy).clamp(0, 1)
        loss = self._loss(restored, clean)
        sums = {name: np.zeros((groups, len(_QUALITIES))) for name in ("restored", "input", "slices")}
        before, after, reference = (
            image.float().cpu().numpy()[:, 0] for image in (enlarge(noisy, self.scale).clamp(0, 1), restored, clean)
        )
        for n, group in enumerate(batch.tensors["group"].tolist()):
            for name, image in (("restored", after), ("input", before)):
                values = np.array(astuple(image_quality(image[n], reference[n])))
                sums[name][group] += np.nan_to_num(values, nan=0.0, posinf=99.0)
            sums["slices"][group] += np.isfinite(values) | np.isposinf(values)
        count = np.array(float(len(batch.samples)))
        return {**sums, "loss": np.array(float(loss)) * count, "n": count}

    def validation_scores(self, sums: Sums) -> Scores:
        """Compute the mean over patients of PSNR and SSIM, and ``*_gain``, their rise over the input's."""
        scores = {"loss": float(sums["loss"] / sums["n"])}
        counted = np.where(sums["slices"] > 0, sums["slices"], np.nan)
        with np.errstate(invalid="ignore"):
            restored, before = (np.nanmean(sums[name] / counted, axis=0) for name in ("restored", "input"))
        for n, name in enumerate(_QUALITIES):
            scores[name] = float(restored[n])
            scores[f"{name}_gain"] = float(restored[n] - before[n])
        return scores
