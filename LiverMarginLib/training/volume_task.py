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
from LiverMarginLib.models.intensity_fields import Window
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
from LiverMarginLib.training.volume_losses import VolumeLoss, as_annotated

# Of each label of each volume; enough to be anywhere in it.
_MOST_CENTRES = 5000
_NAMES = {1: "liver", 2: "tumour"}


class VolumeTask(Task):
    """The task of volumetric networks with a softmax.

    Patches are cut at random places, a share of them about a labelled voxel; they are normalised exactly as inference
    does it, varied, and compared with their labels. Validation segments whole volumes with the sliding window of
    inference and counts on the network's grid: Dice and IoU per label, for each patient (all volumes of a patient
    pooled), mean over the patients in whom the label was drawn or found. The mean Dice over the labels is monitored.

    Images of a further modality are scaled in their own way. Labels that a model has drawn count less, and labels that
    nobody looked for are neither learnt nor scored (`VolumeSample.known`).

    Subclasses for other networks override `check_patch`.
    """

    monitor = training_monitor = "dice"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        volume = config.volume
        self.classes = len(volume.labels) + 1
        self.names = tuple(_NAMES.get(value, f"label_{value}") for value in volume.labels)
        self._intensities = {
            item.modality: (
                Window(*item.window, item.window_unit),
                Normalisation(item.normalisation, item.mean, item.deviation),
            )
            for item in volume.other_modalities
        }
        self._own_intensities = (
            Window(*config.window, volume.window_unit),
            Normalisation(volume.normalisation, volume.mean, volume.deviation),
        )
        self._loss = VolumeLoss(config.loss, self.classes)
        self._augmentation = VolumeAugmentation(config.augmentation, config.seed)
        kinds = {normalisation.kind for _, normalisation in (self._own_intensities, *self._intensities.values())}
        self._limits = (0.0, 1.0) if kinds == {NormalisationKind.UNIT} else None
        # Label value to class number; values that are not learnt are background, or part of the organ.
        self._table = np.full(256, int(volume.whole_organ), np.uint8)
        self._table[0] = 0
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
        window, normalisation = self._intensities.get(sample.modality, self._own_intensities)
        low, high = intensity_limits(sample.image, window)
        return plan_scale(sample.image, normalisation, low, high)

    def read_training(self, source: Source, index: int, sample: int) -> Item:
        """Read ``image`` and ``target``, shapes (1, k, j, i), what goes with them, and ``padding``, shape (1, 1, 1, 1).

        ``weight`` is the share of each class in the loss, and ``known`` whether it was looked for, shapes (classes,).
        """
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
            "padding": np.full((1, 1, 1, 1), outside, np.float32),
            **self._about(volume),
        }

    def read_validation(self, source: Source, index: int, group: int) -> Item:
        """Read a whole volume, and ``group``."""
        volume: VolumeSample = source.read(index)
        scale = self.scale_of(volume)
        return {
            "image": scale.apply(volume.image)[None],
            "target": self._table[volume.labels][None],
            "padding": np.full((1, 1, 1, 1), scale.padding, np.float32),
            **self._about(volume),
            "group": np.array(group),
        }

    def _about(self, volume: VolumeSample) -> Item:
        labels = self.config.volume.labels
        known = [volume.known is None or value in volume.known for value in labels]
        if not known[0]:
            raise InputError(
                f"A case has no label {labels[0]} ({self.names[0]}) to learn from; leave it out or let a model draw it."
            )
        share = [self.config.volume.pseudo_weight if value in volume.pseudo else 1.0 for value in labels]
        return {
            "weight": np.array([1.0, *share], np.float32) * np.float32(volume.weight),
            "known": np.array([True, *known]),
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
        known = batch.tensors["known"]
        loss = self._loss(as_annotated(logits, known), target, _weight_of(target, batch.tensors["weight"]))
        found = logits.detach().argmax(dim=1, keepdim=True)
        scored = known.view(*known.shape, *[1] * (target.ndim - 1)).movedim(1, 0)
        counts = [((found == n) & (target == n) & scored[n]).sum() for n in range(1, self.classes)]
        totals = [((found == n) & scored[n]).sum() + ((target == n) & scored[n]).sum() for n in range(1, self.classes)]
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
        known = batch.tensors["known"].cpu()
        for n in np.flatnonzero(known[0, 1:].numpy()) + 1:
            right, wanted = (found == n), (target == n)
            counts[group, n - 1] = (right & wanted).sum(), right.sum(), wanted.sum()
        whole = np.concatenate((1 - probability.sum(axis=0, keepdims=True), probability)).clip(1e-7, 1)
        wanted = torch.from_numpy(target)[None, None]
        loss = self._loss(
            as_annotated(torch.from_numpy(np.log(whole))[None], known),
            wanted,
            _weight_of(wanted, batch.tensors["weight"].cpu()),
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


class MedFormerTask(VolumeTask):
    """The task of MedFormer, whose patches must be halved four times."""

    def check_patch(self, options: dict[str, Any]) -> None:
        """Raise `InputError` unless the network can take the patch."""
        if any(side % 16 or side < 32 for side in self.config.volume.patch):
            raise InputError(
                f"The patch {self.config.volume.patch} does not suit MedFormer; choose multiples of 16 from 32 on."
            )


def _weight_of(target: Tensor, shares: Tensor) -> Tensor:
    """Weight of every voxel by its class: target (n, 1, ...) and shares (n, classes) to (n, 1, ...)."""
    shares = shares.view(*shares.shape, *[1] * (target.ndim - 1))
    weight = torch.zeros_like(target, dtype=torch.float32)
    for n in range(shares.shape[1]):
        weight = weight + shares[:, n] * (target == n)
    return weight


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
