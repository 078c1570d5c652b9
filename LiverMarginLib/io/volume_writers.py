"""Writing images: NIfTI, NRRD, MHA, and CT and MR as a DICOM series.

LiverMargin writes images only where it made them (phantoms, denoised volumes); it never rewrites a patient's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.volume import IntensityKind, Modality, Volume

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_DICOM_KINDS = {(Modality.CT, IntensityKind.HU), (Modality.MR, IntensityKind.ARBITRARY)}
_RAS_TO_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))


def write_volume(volume: Volume, path: str | Path, *, compress: bool = True) -> Path:
    """Write an image.

    Parameters
    ----------
    volume : Volume
    path : path
        ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha`` for a file; without a suffix a folder of that name receives a
        DICOM series. The file or folder appears whole or not at all; an existing folder is not touched.
    compress : bool
        Whether NRRD and MHA are compressed, which takes many times as long as writing; NIfTI goes by its suffix.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    InputError
        If the suffix is unknown, or the folder exists already.
    GeometryError
        If the grid cannot be expressed in the format (sheared axes in DICOM or ITK formats).
    """
    path = Path(path)
    if path.name.lower().endswith(_SUFFIXES):
        _write_itk(volume, path, compress)
    elif path.suffix == "":
        _write_dicom_series(volume, path)
    else:
        raise InputError(
            f"Images cannot be written as {path.name}; use {', '.join(_SUFFIXES)}, or no suffix for a DICOM folder."
        )
    return path


def _write_itk(volume: Volume, path: Path, compress: bool) -> None:
    import SimpleITK as sitk

    from LiverMarginLib.io.atomic import atomic_path

    directions = volume.geometry.directions
    _check_orthogonal(volume)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array))
    image.SetSpacing(volume.geometry.spacing[::-1])
    image.SetOrigin((_RAS_TO_LPS @ volume.geometry.ijk_to_ras)[:3, 3])
    image.SetDirection((_RAS_TO_LPS[:3, :3] @ directions).ravel())
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=compress)


def _check_orthogonal(volume: Volume) -> None:
    directions = volume.geometry.directions
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):
        raise GeometryError(
            "The image's axes are not at right angles, which this format cannot hold; resample it first."
        )


def _write_dicom_series(volume: Volume, folder: Path) -> None:
    if folder.exists():
        raise InputError(f"The folder {folder.name} exists already; choose another name or remove it first.")
    if (volume.modality, volume.intensity) not in _DICOM_KINDS:
        raise InputError("Only CT in HU and MR are written as DICOM; choose NIfTI, NRRD or MHA for this image.")
    _check_orthogonal(volume)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _fill_dicom_folder(volume, temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill_dicom_folder(volume: Volume, folder: Path) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    is_ct = volume.modality is Modality.CT
    storage, offset = (CTImageStorage, 1024) if is_ct else (MRImageStorage, 0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    matrix = _RAS_TO_LPS @ volume.geometry.ijk_to_ras
    directions = _RAS_TO_LPS[:3, :3] @ volume.geometry.directions
    orientation = [*directions[:, 0], *directions[:, 1]]
    slice_spacing, row_spacing, column_spacing = volume.geometry.spacing
    for k, pixels in enumerate(volume.array):
        stored = np.clip(np.rint(pixels.astype(np.float32)) + offset, -32768, 32767).astype("<i2")
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = storage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(folder), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
        dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        dataset.PatientName, dataset.PatientID = "LiverMargin^Synthetic", "SYNTHETIC"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.StudyID, dataset.StudyDate, dataset.StudyTime = "1", "20000101", "000000"
        dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 1, k + 1, 1
        dataset.Modality, dataset.Manufacturer = str(volume.modality), "LiverMargin"
        dataset.PositionReferenceIndicator = ""
        dataset.ImagePositionPatient = [float(f"{x:.6f}") for x in (matrix @ (0, 0, k, 1))[:3]]
        dataset.ImageOrientationPatient = [float(f"{x:.8f}") for x in orientation]
        dataset.PixelSpacing = [float(f"{row_spacing:.8f}"), float(f"{column_spacing:.8f}")]
        dataset.SliceThickness = f"{slice_spacing:.6g}"
        dataset.Rows, dataset.Columns = stored.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        if is_ct:
            dataset.KVP = ""
            dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = str(-offset), "1", "HU"
            dataset.WindowCenter, dataset.WindowWidth = "40", "400"
        else:
            dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
            dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength = "2D", "", ""
        dataset.PixelData = stored.tobytes()
        dataset.save_as(folder / f"{k + 1:04d}.dcm", enforce_file_format=True)
