"""The sample "LiverMargin phantom" of the Sample Data module: an abdomen with exact labels, made on the spot."""

from __future__ import annotations

from typing import Any

from LiverMarginLib import mrml

NAME = "LiverMargin phantom"
_SEED = 7


def add_phantom(scene: Any) -> tuple[Any, Any]:
    """Make the phantom; takes two to three seconds.

    Parameters
    ----------
    scene : vtkMRMLScene

    Returns
    -------
    vtkMRMLScalarVolumeNode
        CT of 40 x 192 x 192 voxels in the portal phase.
    vtkMRMLSegmentationNode
        Its exact liver and lesions.
    """
    from LiverMarginLib.phantom import PhantomOptions, Phase, liver_target, make_phantom

    options = PhantomOptions(
        shape=(40, 192, 192), spacing=(5.0, 2.1, 2.1), phase=Phase.PORTAL, lesions=2, liver_scale=0.9
    )
    phantom = make_phantom(_SEED, options)
    volume = mrml.volume_to_node(phantom.volume, scene, NAME)
    labels = liver_target(phantom.labels, tumour=True)
    return volume, mrml.labels_to_node(labels, volume, f"{NAME} reference")


def register() -> None:
    """Offer the phantom in the Sample Data module; its button makes it, scripts call `add_phantom`."""
    import SampleData
    import slicer

    def make(_source: Any) -> list[Any]:
        volume, labels = add_phantom(slicer.mrmlScene)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        return [volume, labels]

    # Without an address the module shows no button; this one is never asked for.
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="LiverMargin",
        sampleName=NAME,
        uris="generated",
        fileNames="LiverMarginPhantom.nrrd",
        nodeNames=NAME,
        customDownloader=make,
    )
