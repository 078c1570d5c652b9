"""Small DICOM files for the tests of reading, made with pydicom alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

SECRET = "Doe^Jane"  # must never come out of a reader
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored_ct(count=5, rows=12, columns=10, seed=3):
    """Stored values of a CT with intercept -1024: air, tissue and some bone, uint16, every slice different."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(900, 1200, (count, rows, columns)).astype(np.uint16)
    pixels[:, :3] = rng.integers(0, 60, (count, 3, columns))
    pixels[:, -1, -1] = 2500
    return pixels


def ct_slice(pixels, position=(0.0, 0.0, 0.0), *, series="1.2.3.4", orientation=AXIAL, spacing=(0.8, 0.7), **extra):
    """One CT slice; keywords set or (None) delete elements."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = SECRET
    dataset.PatientID = "ID-4711"
    dataset.AccessionNumber = "ACC-0815"
    dataset.SeriesDescription = f"Abdomen of {SECRET}"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = "1.2.3.9"
    dataset.Modality = "CT"
    dataset.SeriesNumber = 4
    dataset.InstanceNumber = 1
    dataset.ImagePositionPatient = [float(p) for p in position]
    dataset.ImageOrientationPatient = list(orientation)
    dataset.PixelSpacing = list(spacing)
    dataset.SliceThickness = 2.0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    set_pixels(dataset, pixels)
    for keyword, value in extra.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def set_pixels(dataset, pixels):
    """Describe and attach an array (rows, columns) or (frames, rows, columns) of integers."""
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)


def save(dataset, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.save_as(path, **{"enforce_file_format": True, **options})
    return path


def write_series(folder: Path, pixels=None, *, step=(0.0, 0.0, 2.0), origin=(-10.0, -20.0, 30.0), prefix="IM", **extra):
    """Write a series whose file names run against its positions; return the stored values, k along the normal."""
    pixels = stored_ct() if pixels is None else pixels
    for k, image in enumerate(pixels):
        position = np.array(origin) + k * np.array(step)
        dataset = ct_slice(image, position, InstanceNumber=len(pixels) - k, **extra)
        # "9" before "10": neither alphabetical nor natural order of the names is that of the positions
        save(dataset, folder / f"{prefix}{(7 * k) % len(pixels)}.dcm")
    return pixels


def enhanced(pixels, positions, *, slopes=None, orientation=AXIAL, spacing=(0.8, 0.7)):
    """An Enhanced CT object with one functional group item per frame, in the given order."""
    dataset = ct_slice(pixels, RescaleSlope=None, RescaleIntercept=None)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(pixels)
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=list(orientation))])
    shared.PixelMeasuresSequence = Sequence([_item(PixelSpacing=list(spacing), SliceThickness=2.0)])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for n, position in enumerate(positions):
        groups = Dataset()
        groups.PlanePositionSequence = Sequence([_item(ImagePositionPatient=[float(p) for p in position])])
        slope = 1 if slopes is None else slopes[n]
        groups.PixelValueTransformationSequence = Sequence([_item(RescaleSlope=slope, RescaleIntercept=-1024)])
        frames.append(groups)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def mr_slice(pixels, position, **extra):
    """One MR slice without rescale."""
    return ct_slice(
        pixels,
        position,
        SOPClassUID=MRImageStorage,
        Modality="MR",
        **{"RescaleSlope": None, "RescaleIntercept": None, **extra},
    )


def _item(**elements):
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
