"""What a batch is about to do, as plain values that travel to workers and to other machines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One image to segment.

    Parameters
    ----------
    name : str
        What it is called in everything that is written; never taken from the file or its header.
    folder : str
        Where its files lie: a folder, or the image file itself.
    files : tuple of str
        Files of a DICOM series, relative to `folder`; empty for an image file or a stack of pictures.
    modality : str, optional
        "CT" or "MR" where the list of cases says it.
    reference : str, optional
        A segmentation to measure against.
    label : str, optional
        Its value or name of the liver; several separated by commas.
    problem : str
        Why it cannot be segmented, where its headers tell already.
    """

    name: str
    folder: str
    files: tuple[str, ...] = ()
    modality: str | None = None
    reference: str | None = None
    label: str | None = None
    problem: str = ""

    def input_files(self) -> list[Path]:
        """The files of the image."""
        folder = Path(self.folder)
        if self.files:
            return [folder / name for name in self.files]
        return _files_of(folder)

    def reference_files(self) -> list[Path]:
        """The files of the reference; none without one."""
        return [] if self.reference is None else _files_of(Path(self.reference))


def case_from_dict(values: Mapping[str, Any]) -> Case:
    """Rebuild a case from its fields, as JSON has them."""
    return Case(**{**values, "files": tuple(values.get("files") or ())})


@dataclass(frozen=True)
class Left:
    """An image that is no case, and why."""

    path: Path
    what: str
    reason: str


def content_digest(files: list[Path]) -> str:
    """Hash the contents of files, whatever they are called and in whatever order they are listed.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    digests = []
    for path in files:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def settings_digest(settings: dict[str, Any]) -> str:
    """Hash of everything but the images that decides about a result."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def case_key(settings: str, image: str, reference: str) -> str:
    """What a result was made from: the digests of settings, image and reference."""
    return hashlib.sha256(f"{settings} {image} {reference}".encode()).hexdigest()


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        # The voxels of a header that stands apart are content too.
        partners = {".hdr": (".img", ".img.gz"), ".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz")}
        beside = [path.with_suffix(suffix) for suffix in partners.get(path.suffix.lower(), ())]
        return [path, *(partner for partner in beside if partner.is_file())]
    return [Path(parent, name) for parent, _, names in os.walk(path) for name in names]
