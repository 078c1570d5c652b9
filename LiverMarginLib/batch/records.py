"""One JSON record a case, in the case's own folder: the state of a batch is the sum of its records.

A case's folder appears whole or not at all: it is made elsewhere on the same disk and renamed. A record without its
files, or with other ones, is no record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from LiverMarginLib.digest import sha256_of
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import dumps

SCHEMA = "livermargin.batch-case"
VERSION = 1
RECORD = "case.json"
_SWAP_ATTEMPTS = 20


class Status(StrEnum):
    """How a case ended."""

    DONE = "done"
    NO_LIVER = "no liver found"
    FAILED = "failed"
    NOT_DONE = "not done"

    @property
    def has_result(self) -> bool:
        """Whether there is a segmentation, be it empty."""
        return self in (Status.DONE, Status.NO_LIVER)


# Failures that the same files and options would give again; all others may have been the machine's.
LASTING = frozenset({"input", "geometry", "bundle"})


@dataclass(frozen=True)
class CaseRecord:
    """The outcome of one case.

    Parameters
    ----------
    case : str
    status : Status
    key : str
        What the result was made from, see `plan.case_key`; "" if that could not be told.
    message : str
        Why it failed; notices, where it did not.
    error : str
        Kind of the failure: that of a `LiverMarginError`, "crash", "timeout" or "memory". A case that has a result
        and an error could not be measured against its reference.
    seconds : mapping of str to float
        Of each stage.
    volumes_ml : mapping of str to float, optional
        By segment; None where the voxel spacing is not known.
    slices : int
    confidence : float, optional
        See `LiverMarginLib.inference.labelling.Confidence`.
    least_sure_slice : int, optional
        Axial slice, from 0 at the inferior end, with the lowest confidence.
    least_confidence : float, optional
        Of that slice.
    metrics : mapping of str to float
        By column of `LiverMarginLib.comparison.patient_columns`, infinite ones as text; empty without a reference.
    device : str
    files : mapping of str to str
        sha256 by name, of everything in the case's folder but the record.
    digests : mapping of str to str
        sha256 of ``image`` and ``reference`` contents.
    """

    case: str
    status: Status
    key: str = ""
    message: str = ""
    error: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    volumes_ml: Mapping[str, float | None] = field(default_factory=dict)
    slices: int = 0
    confidence: float | None = None
    least_sure_slice: int | None = None
    least_confidence: float | None = None
    metrics: Mapping[str, float | str | None] = field(default_factory=dict)
    device: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as a JSON file has it."""
        return dumps({"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(self)}, indent=1)


def record_from_dict(values: Mapping[str, Any]) -> CaseRecord:
    """Rebuild a record.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is not one of this version.
    """
    fields = dict(values)
    if fields.pop("schema") != SCHEMA or fields.pop("version") != VERSION:
        raise ValueError("another schema")
    return CaseRecord(**{**fields, "status": Status(fields["status"])})


def read_record(folder: Path) -> CaseRecord | None:
    """Read the record of a case's folder; None if there is none, or it cannot be used."""
    try:
        return record_from_dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_whole(record: CaseRecord, folder: Path) -> bool:
    """Whether the files of a record are there and are those that were written."""
    try:
        return all(sha256_of(folder / name) == digest for name, digest in record.files.items())
    except OSError:
        return False


def write_record(record: CaseRecord, folder: Path) -> None:
    """Write a record into a folder, whole or not at all."""
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(record.to_json(), encoding="utf-8")


def publish(made: Path, final: Path, aside: Path) -> None:
    """Let a folder that is complete take its final name.

    Parameters
    ----------
    made, final : Path
        On the same disk; an existing `final` is replaced.
    aside : Path
        Folder on the same disk that receives what was there before, to be removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_SWAP_ATTEMPTS):
        old = aside / f"old-{secrets.token_hex(6)}"
        with contextlib.suppress(FileNotFoundError):
            final.rename(old)
        try:
            made.rename(final)
        except OSError:
            # A worker of a run that was killed may end its last case in this very moment, or a reader on Windows
            # have a file open; that passes.
            if attempt + 1 == _SWAP_ATTEMPTS or not made.exists():
                raise
            time.sleep(0.05)
        else:
            shutil.rmtree(old, ignore_errors=True)
            return


def publish_record(record: CaseRecord, final: Path, work: Path) -> None:
    """Let a case's folder hold a record and nothing else: it has no result."""
    made = work / f"failed-{secrets.token_hex(6)}"
    made.mkdir(parents=True)
    write_record(record, made)
    publish(made, final, work)


def sweep(work: Path) -> None:
    """Remove what an earlier run left unfinished."""
    if work.is_dir():
        for entry in os.scandir(work):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()
