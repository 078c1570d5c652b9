"""From the best weights of a training to a model bundle that every door can run."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverMarginLib.errors import InputError
from LiverMarginLib.jsonable import loads
from LiverMarginLib.models.architectures import Activation, Architecture, find_architecture, resolve
from LiverMarginLib.models.bundle import Bundle, save_bundle
from LiverMarginLib.models.intensity_fields import ModalityInput, Window
from LiverMarginLib.models.manifest import FillHoles, Manifest, Postprocessing, Task
from LiverMarginLib.models.volumetric_fields import Localiser, Normalisation, SpacingUnit
from LiverMarginLib.terminology import LIVER, Segment, segment_of
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.profiles import is_volumetric
from LiverMarginLib.training.volume_config import Preparation, VolumeConfig
from LiverMarginLib.volume import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from LiverMarginLib.models.maskrcnn_spec import MaskRCNNSpec
    from LiverMarginLib.training.trainer import TrainResult

_DENOISED_SIDE = 512


def bundle_from_training(
    result: TrainResult,
    config: TrainConfig,
    folder: str | os.PathLike[str],
    *,
    name: str,
    version: str = "1.0.0",
    modality: Modality = Modality.CT,
    description: str = "",
    licence: str = "",
    notes: Mapping[str, Any] | None = None,
    segments: Sequence[Segment] = (),
    half: bool = False,
    onnx: bool = True,
    overwrite: bool = False,
) -> Bundle:
    """Save the best weights of a training as a model bundle.

    Parameters
    ----------
    result : TrainResult
    config : TrainConfig
        The training's.
    folder, name, version, description, licence, half, onnx, overwrite
        See `Manifest` and `save_bundle`.
    modality : Modality
        Of the training images.
    notes : mapping, optional
        What else the model card should say about the training: data, hardware. No patient identity.
    segments : sequence of Segment
        What a volumetric network's labels mean, where not what this project's label values mean.

    Returns
    -------
    Bundle

    Raises
    ------
    InputError
        If the training was stopped before it had weights worth keeping.
    BundleError, ResourceError
        See `save_bundle`.
    """
    from LiverMarginLib.training.checkpoint import load_weights

    if result.weights is None:
        raise InputError("The training was stopped before its first validation, so there is no model yet; resume it.")
    weights = load_weights(result.weights)
    spec: MaskRCNNSpec | None = None
    if config.model == "detectron2":
        from LiverMarginLib.models.detectron_config import DetectronOptions

        # Detectron2 is how it was trained; the bundle says what it is, and runs without Detectron2.
        spec = DetectronOptions.from_mapping(config.model_options).spec(config.size)
        architecture, parameters = find_architecture("mask-rcnn"), spec.to_dict()
    else:
        architecture = find_architecture(config.model)
        parameters = {**_defaults(architecture), **config.model_options}
    context = config.slice_context
    if context.slices:
        parameters["in_channels"] = context.channels
    if architecture.activation is Activation.SOFTMAX:
        parameters["classes"] = 1 + len(config.volume.labels)
    denoising = config.model == "dncnn-sr"
    # A denoising network takes any size; its ONNX graph has this one, and gives slices of 512 x 512.
    side = _DENOISED_SIDE // int(parameters["scale"]) if denoising else config.size
    manifest = Manifest(
        name=name,
        version=version,
        architecture=architecture.name,
        modality=modality,
        input_kind=config.intensity,
        window=Window(*config.window),
        labels=() if denoising else (LIVER,),  # a volumetric network has those it has learnt, see below
        parameters={key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items()},
        task=Task.DENOISING if denoising else Task.SEGMENTATION,
        input_size=(side, side),
        context_slices=context.slices,
        context_mm=context.mm,
        thresholds=dict(result.thresholds),
        # The liver is one piece, and slice-wise networks find others now and then.
        postprocessing=Postprocessing() if denoising else Postprocessing(True, FillHoles.SLICE),
        training={
            "epochs": result.epochs,
            "steps": result.steps,
            "batch": config.batch,
            "best_epoch": result.best_epoch,
            "ending": result.ending.value,
            "minutes": round(result.seconds / 60, 1),
            "seed": config.seed,
            "deterministic": config.deterministic,
            "weights_hash": result.weights_sha256,
            "validation": {key: round(value, 5) for key, value in result.scores.items() if value == value},
            **(_measure_denoiser(architecture, parameters, weights) if denoising else {}),
            **_cases_seen(result.folder),
            **(notes or {}),
        },
        licence=licence,
        description=description,
    )
    if is_volumetric(config.model):
        manifest = _volumetric(manifest, config, {segment.label: segment for segment in segments})
    if spec is not None:
        from LiverMarginLib.models.detectron_bundle import save_mask_rcnn

        return save_mask_rcnn(folder, manifest, spec, weights, half=half, onnx=onnx, overwrite=overwrite)
    module = architecture.build(manifest.parameters)
    module.load_state_dict(weights)
    return save_bundle(folder, manifest, module=module, half=half, onnx=onnx, overwrite=overwrite)


def _volumetric(manifest: Manifest, config: TrainConfig, meaning: Mapping[int, Segment]) -> Manifest:
    """Say how a volumetric network sees images, and what it finds."""
    volume = config.volume
    in_voxels = volume.preparation is Preparation.MLF_CORE
    return replace(
        manifest,
        labels=tuple(meaning.get(value) or segment_of(value) for value in volume.labels),
        input_size=volume.patch,
        spacing=volume.spacing,
        spacing_unit=SpacingUnit.VOXEL if in_voxels else SpacingUnit.MM,
        window=Window(*config.window, volume.window_unit),
        normalisation=Normalisation(volume.normalisation, volume.mean, volume.deviation),
        localiser=_localiser(volume.localiser, volume),
        other_inputs=tuple(
            ModalityInput(
                item.modality,
                item.intensity,
                Window(*item.window, item.window_unit),
                Normalisation(item.normalisation, item.mean, item.deviation),
                _localiser(item.localiser, volume),
            )
            for item in volume.other_modalities
        ),
        postprocessing=Postprocessing(
            volume.largest_component, FillHoles.VOLUME if volume.largest_component else FillHoles.NONE
        ),
    )


def _localiser(model: str | None, volume: VolumeConfig) -> Localiser | None:
    return None if model is None else Localiser(model, volume.margin_mm, volume.keep_organ)


def _cases_seen(folder: Path) -> dict[str, Any]:
    """Which cases the network has learnt from and was chosen by, and which record says so."""
    from LiverMarginLib.training.manifest import MANIFEST

    path = folder / MANIFEST
    if not path.is_file():
        return {}
    record = path.read_bytes()
    data = loads(record)["data"]
    seen = {f"{part}_cases": data[part].get("cases", []) for part in ("train", "validation") if data[part]}
    named = {part: cases for part, cases in seen.items() if cases}
    return named | ({"run_manifest_sha256": hashlib.sha256(record).hexdigest()} if named else {})


def _defaults(architecture: Architecture) -> dict[str, Any]:
    """Return the network's own defaults, so that the bundle stays what it is when they change."""
    assert architecture.module is not None
    parameters = inspect.signature(resolve(architecture.module)).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}


def _measure_denoiser(
    architecture: Architecture, parameters: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, float]:
    from LiverMarginLib.training.restoration import constant_image_error

    module = architecture.build(parameters)
    module.load_state_dict(weights)
    return {"largest_change_of_a_constant_image": round(constant_image_error(module), 5)}
