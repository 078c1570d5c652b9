"""Learning to segment blocks of voxels, with several labels that exclude each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from LiverMarginLib.errors import InputError
from LiverMarginLib.inference.compatibility import intensity_limits, plan_scale
from LiverMarginLib.inference.labelling import Labelling
from LiverMarginLib.inference.sliding import SlidingWindow
from LiverMarginLib.models.architectures import find_architecture, resolve
from LiverMarginLib.models.manifest import Window
from LiverMarginLib.models.volumetric_fields import Normalisation, NormalisationKind
from LiverMarginLib.preprocessing import FloatImage, Scale
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.data import Source
from LiverMarginLib.training.determinism import Purpose, keyed_rng
from LiverMarginLib.training.loader import Batch, Item
from LiverMarginLib.training.segmentation import known_options
from LiverMarginLib.training.task import Scores, Sums, Task
from LiverMarginLib.training.volume_augmentation import VolumeAugmentation
from LiverMarginLib.training.volume_data import VolumeSample
from LiverMarginLib.training.volume_losses import VolumeLoss

# Of each label of each volume; enough to be anywhere in it.
_MOST_CENTRES = 5000
_NAMES = {1: "liver", 2: "tumour"}


class VolumeTask(Task):
    """The task of volumetric networks with a softmax.

    Patches are cut at random places, a share of them about a labelled voxel; they are normalised exactly as inference
    does it, varied, and compared with their labels. Validation segments whole volumes with the sliding window of
    inference and counts on the network's grid: Dice and IoU per label, for each patient (all volumes of a patient
    pooled), mean over the patients in whom the label was drawn or found. The mean Dice over the labels is monitored.

    Subclasses for other networks override `build_model`, and `scale_of` where the intensities differ by modality.
    """

    monitor = training_monitor = "dice"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        volume = config.volume
        self.classes = len(volume.labels) + 1
        self.names = tuple(_NAMES.get(value, f"label_{value}") for value in volume.labels)
        self._normalisation = Normalisation(volume.normalisation, volume.mean, volume.deviation)
        self._loss = VolumeLoss(config.loss, self.classes)
        self._augmentation = VolumeAugmentation(config.augmentation, config.seed)
        self._limits = (0.0, 1.0) if volume.normalisation is NormalisationKind.UNIT else None
        # Label value to class number; values that are not learnt are background.
        self._table = np.zeros(256, np.uint8)
        self._table[list(volume.labels)] = np.arange(1, self.classes)
        # Of the training's volumes, which are asked for again and again.
        self._scales: dict[int, Scale] = {}
        self._centres: dict[int, list[npt.NDArray[np.int32]]] = {}

    def build_model(self) -> nn.Module:
        """The architecture that the configuration names, with its options."""
        reference = find_architecture(self.config.model).module
        assert reference is not None
        network = resolve(reference)
        options = known_options(self.config.model_options, option_names(network) - {"classes"})
        model: nn.Module = network(**{"classes": self.classes, **options})
        self.check_patch(options)
        return model

    def check_patch(self, options: dict[str, Any]) -> None:
        """Raise `InputError` unless the network can take the patch."""
        depth = len(options["widths"]) if "widths" in options else 3
        step = 2 ** (depth - 1)
        if any(side % step for side in self.config.volume.patch):
            raise InputError(
                f"The patch {self.config.volume.patch} does not suit this network; choose multiples of {step}."
            )

    # -- reading

    def scale_of(self, sample: VolumeSample) -> Scale:
        """What becomes of a volume's intensities, as inference will have it."""
        window = Window(*self.config.window, self.config.volume.window_unit)
        low, high = intensity_limits(sample.image, window)
        return plan_scale(sample.image, self._normalisation, low, high)

    def read_training(self, source: Source, index: int, sample: int) -> Item:
        """Read ``image`` and ``target``, shapes (1, k, j, i), ``weight`` and ``padding``, shapes (1, 1, 1, 1)."""
        volume: VolumeSample = source.read(index)
        if index not in self._scales:
            self._scales[index] = self.scale_of(volume)
        scale = self._scales[index]
        start = self._draw_start(index, volume, keyed_rng(self.config.seed, Purpose.PATCH, sample))
        patch = self.config.volume.patch
        image = cut(volume.image, start, patch, fill=None)
        outside = scale.padding
        return {
            "image": pad_to(scale.apply(image), start, volume.image.shape, patch, outside)[None],
            "target": self._table[cut(volume.labels, start, patch, fill=0)][None],
            "weight": np.full((1, 1, 1, 1), volume.weight, np.float32),
            "padding": np.full((1, 1, 1, 1), outside, np.float32),
        }

    def read_validation(self, source: Source, index: int, group: int) -> Item:
        """Read a whole volume, and ``group``."""
        volume: VolumeSample = source.read(index)
        scale = self.scale_of(volume)
        return {
            "image": scale.apply(volume.image)[None],
            "target": self._table[volume.labels][None],
            "weight": np.full((1, 1, 1, 1), volume.weight, np.float32),
            "padding": np.full((1, 1, 1, 1), scale.padding, np.float32),
            "group": np.array(group),
        }

    @property
    def validation_batch(self) -> int:
        """Volumes differ in size."""
        return 1

    def _draw_start(self, index: int, volume: VolumeSample, rng: np.random.Generator) -> tuple[int, int, int]:
        patch, shape = self.config.volume.patch, volume.image.shape
        about_label = rng.random() < self.config.volume.foreground
        centres = self._centres_of(index, volume)
        if about_label and centres:
            places = centres[rng.integers(len(centres))]
            middle = places[rng.integers(len(places))]
            wanted = [int(m) - n // 2 for m, n in zip(middle, patch, strict=True)]
            place = [min(max(0, w), max(0, s - n)) for w, s, n in zip(wanted, shape, patch, strict=True)]
        else:
            place = [int(rng.integers(max(0, s - n) + 1)) for s, n in zip(shape, patch, strict=True)]
        # A volume smaller than the patch lies in its middle, as in inference.
        k, j, i = (p if s >= n else -((n - s) // 2) for p, s, n in zip(place, shape, patch, strict=True))
        return k, j, i

    def _centres_of(self, index: int, volume: VolumeSample) -> list[npt.NDArray[np.int32]]:
        """Voxels of each label that is there, shapes (n, 3)."""
        if index not in self._centres:
            found = []
            classes = self._table[volume.labels]
            for number in range(1, self.classes):
                places = np.argwhere(classes == number).astype(np.int32)
                if len(places):
                    step = -(-len(places) // _MOST_CENTRES)
                    found.append(places[::step])
            self._centres[index] = found
        return self._centres[index]

    # -- learning

    def vary(self, batch: Batch) -> Batch:
        """Augment."""
        tensors = batch.tensors
        image, target = self._augmentation(
            tensors["image"], tensors["target"], batch.samples, tensors["padding"], self._limits
        )
        return Batch(batch.samples, {**tensors, "image": image, "target": target})

    def learn(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, and the overlap of each label."""
        target = batch.tensors["target"]
        logits = model(batch.tensors["image"])
        loss = self._loss(logits, target, batch.tensors["weight"])
        found = logits.detach().argmax(dim=1, keepdim=True)
        counts = [((found == n) & (target == n)).sum() for n in range(1, self.classes)]
        totals = [(found == n).sum() + (target == n).sum() for n in range(1, self.classes)]
        return loss, {
            "loss": loss.detach() * len(batch.samples),
            "n": torch.tensor(len(batch.samples), device=logits.device),
            "intersection": torch.stack(counts),
            "total": torch.stack(totals),
        }

    def training_scores(self, sums: Sums) -> Scores:
        """Mean loss, and the mean over the labels of the Dice of all patches of the epoch, as augmented."""
        with np.errstate(invalid="ignore"):
            dice = 2 * sums["intersection"] / sums["total"]
        known = dice[np.isfinite(dice)]
        return {
            "loss": float(sums["loss"] / sums["n"]),
            "dice": float(known.mean()) if len(known) else float("nan"),
        }

    def validate(self, model: nn.Module, batch: Batch, groups: int) -> dict[str, np.ndarray]:
        """Segment a volume and count the voxels of its patient by label: right, found, wanted."""
        device = batch.tensors["image"].device
        image = batch.tensors["image"][0, 0].cpu().numpy()
        target = batch.tensors["target"].cpu().numpy()[0, 0]

        def predict(blocks: FloatImage) -> FloatImage:
            logits = model(torch.from_numpy(blocks).to(device)).float()
            return np.asarray(torch.softmax(logits, dim=1)[:, 1:].cpu().numpy())

        k, j, i = image.shape
        rows = SlidingWindow((k, j, i), self.config.volume.patch, self.config.volume.overlap).rows(
            lambda row: image[row],
            predict,
            self.classes - 1,
            batch=self.config.batch if device.type == "cuda" else 1,
            padding=float(batch.tensors["padding"]),
        )
        probability = np.concatenate([part for _, part in rows], axis=1)
        found = Labelling(range(1, self.classes), True, None)(probability)
        counts = np.zeros((groups, self.classes - 1, 3))
        group = int(batch.tensors["group"])
        for n in range(1, self.classes):
            right, wanted = (found == n), (target == n)
            counts[group, n - 1] = (right & wanted).sum(), right.sum(), wanted.sum()
        whole = np.concatenate((1 - probability.sum(axis=0, keepdims=True), probability)).clip(1e-7, 1)
        loss = self._loss(
            torch.from_numpy(np.log(whole))[None],
            torch.from_numpy(target)[None, None],
            batch.tensors["weight"].cpu(),
        )
        return {"loss": np.array(float(loss)), "n": np.array(1.0), "counts": counts}

    def validation_scores(self, sums: Sums) -> Scores:
        """Compute ``dice`` (mean over the labels), and Dice and IoU of each label, means over patients."""
        scores = {"loss": float(sums["loss"] / sums["n"])}
        right, found, wanted = np.moveaxis(sums["counts"], -1, 0)
        with np.errstate(invalid="ignore"):
            dice, iou = 2 * right / (found + wanted), right / (found + wanted - right)
        means = []
        for n, name in enumerate(self.names):
            known = np.isfinite(dice[:, n])
            scores[f"dice_{name}"] = float(dice[known, n].mean()) if known.any() else float("nan")
            scores[f"iou_{name}"] = float(iou[known, n].mean()) if known.any() else float("nan")
            means.append(scores[f"dice_{name}"])
        finite = [value for value in means if value == value]
        return {"dice": float(np.mean(finite)) if finite else float("nan"), **scores}


def option_names(network: Any) -> set[str]:
    """Names of the arguments that a network's class takes."""
    import inspect

    return set(inspect.signature(network).parameters)


def cut(
    array: npt.NDArray[Any], start: tuple[int, int, int], size: tuple[int, int, int], fill: float | None
) -> npt.NDArray[Any]:
    """Copy a block out of an array; what lies outside is `fill`, or left out where that is None."""
    inside = tuple(slice(max(0, s), min(n, s + side)) for s, side, n in zip(start, size, array.shape, strict=True))
    part = np.array(array[inside])
    return part if fill is None else pad_to(part, start, array.shape, size, fill)


def pad_to(
    part: npt.NDArray[Any],
    start: tuple[int, int, int],
    shape: tuple[int, ...],
    size: tuple[int, int, int],
    fill: float,
) -> npt.NDArray[Any]:
    """Put what `cut` left of a block back into its full size."""
    widths = [(max(0, -s), max(0, s + side - n)) for s, side, n in zip(start, size, shape, strict=True)]
    return np.pad(part, widths, constant_values=fill) if any(any(pair) for pair in widths) else part
