"""The state of the panels: saved with the scene and restored with it.

The decorator reads the annotations when the class is made, so this file does without postponed ones. Names must stay
as they are: a scene that holds another kind of value under one of them cannot be restored.
"""

import pathlib
from typing import Annotated, Union

import slicer
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class LiverMarginParameterNode:
    """What a user has chosen in the panels.

    Parameters
    ----------
    inputVolume, modality, models, denoiser, device, precision, allSlices, firstSlice, lastSlice, allowMismatch
        See `SegmentSettings`; `models` (the ticked ones) and `denoiser` are folders.
    ownModels
        Folders of models that the user has chosen, beside those that are found.
    outputSegmentation
        Receives the segments; empty for a new one.
    followSlices
        Whether the axial view shows the slice that has just come.
    exportSegmentation, exportFolder, exportName
        What the Export panel writes, where, and under which name.
    trainData, trainLabel, trainWithPhantoms, trainPhantoms, trainDataWeight, trainModel, trainProfile, trainInitial
    trainModality, trainDevice, trainEpochs, trainName, trainFolder
        See `TrainSettings`.
    writeSegNrrd, writeNifti, writeNrrd, writeDicom, writeStl, writeObj, writePly, writeKitti, writeReport
        In which formats.
    compareReference, compareOrgan, compareImage, compareFolder
        Reference of the Compare panel, which part of it, the image behind both, and where results are kept.
    comparePredictions, comparePredictionOrgans
        What is compared with it, and which part of each, by node ID, where that was chosen.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    modality: Annotated[str, Choice(["auto", "CT", "MR"])] = "auto"
    models: list[str]
    ownModels: list[str]
    denoiser: str = ""
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    device: Annotated[str, Choice(["auto", "cpu", "cuda", "mps"])] = "auto"
    precision: Annotated[str, Choice(["single", "half"])] = "single"
    allSlices: bool = True
    firstSlice: Annotated[int, WithinRange(0, 9999)] = 0
    lastSlice: Annotated[int, WithinRange(0, 9999)] = 0
    allowMismatch: bool = False
    followSlices: bool = True

    compareReference: Union[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLScalarVolumeNode, None] = None  # noqa: UP007
    compareOrgan: str = ""
    compareImage: slicer.vtkMRMLScalarVolumeNode
    comparePredictions: list[slicer.vtkMRMLDisplayableNode]
    comparePredictionOrgans: dict[str, str]
    compareFolder: pathlib.Path
    exportSegmentation: slicer.vtkMRMLSegmentationNode
    exportFolder: pathlib.Path
    exportName: str = "liver"
    writeSegNrrd: bool = True
    writeNifti: bool = False
    writeNrrd: bool = False
    writeDicom: bool = False
    writeStl: bool = False
    writeObj: bool = False
    writePly: bool = False
    writeKitti: bool = False
    writeReport: bool = False

    trainData: pathlib.Path
    trainLabel: str = ""
    trainWithPhantoms: bool = False
    trainPhantoms: Annotated[int, WithinRange(4, 10000)] = 40
    trainDataWeight: Annotated[float, WithinRange(0.01, 1.0)] = 1.0
    trainModel: Annotated[str, Choice(["unet", "unet3d", "medformer", "dncnn-sr", "detectron2"])] = "unet"
    trainProfile: str = "robust"
    trainInitial: str = ""
    trainModality: Annotated[str, Choice(["CT", "MR"])] = "CT"
    trainDevice: Annotated[str, Choice(["auto", "cpu", "cuda", "mps"])] = "auto"
    trainEpochs: Annotated[int, WithinRange(0, 100000)] = 0
    trainName: str = "my-model"
    trainFolder: pathlib.Path
