"""Loads an image into the scene by our own readers: they sort DICOM slices by position, not by file name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Event, Notice

SOURCE = "LiverMargin.Source"
"""Attribute of a volume: the DICOM file or folder that it was read from."""


def load_image(path: Path, scene: Any, notice: Callable[[str], None]) -> Any:
    """Read a DICOM folder or file, NIfTI, NRRD, MetaImage, or a folder of pictures.

    Parameters
    ----------
    path : Path
    scene : vtkMRMLScene
    notice : callable
        Hears what had to be assumed or repaired.

    Returns
    -------
    vtkMRMLScalarVolumeNode
        Named after its file; a DICOM series after modality and series number, because folders are often named after
        the patient.

    Raises
    ------
    LiverMarginError
        If there is no image; the scene is as it was.
    """
    from LiverMarginLib.io.readers import list_images, read_volume

    images = [image for image in list_images(path, values=False) if not image.problem and not image.segments]
    if not images:
        raise InputError("There is no image in what was dropped; drop a CT or MR.")
    chosen = max(images, key=lambda image: _voxels(image.shape))
    if len(images) > 1:
        notice(f"{len(images)} images were found and the largest was loaded; drop a file of another to load that one.")

    def hear(event: Event) -> None:
        if isinstance(event, Notice):
            notice(event.message)

    volume = read_volume(path, series=chosen.key if len(images) > 1 else None, on_event=hear)
    from_dicom = chosen.kind.startswith("DICOM")
    name = chosen.path.name.partition(".")[0] or "image"
    if from_dicom:
        number = "" if chosen.series_number is None else f" {chosen.series_number}"
        name = f"{volume.modality.value}{number}"
    node = mrml.volume_to_node(volume, scene, scene.GenerateUniqueName(name))
    if from_dicom:
        node.SetAttribute(SOURCE, str(chosen.path))
    return node


def _voxels(shape: tuple[int, ...] | None) -> int:
    count = 1
    for length in shape or (0,):
        count *= length
    return count
