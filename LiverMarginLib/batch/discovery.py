"""Which images under a path are cases: found by content, chosen by rules that a person can read."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from LiverMarginLib.batch.plan import Left
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import OnEvent, ignore
from LiverMarginLib.io.detect import FileFormat, expected_format, files_below, natural_key, sniff
from LiverMarginLib.io.dicom_headers import ObjectKind, Series
from LiverMarginLib.io.sources import DicomSource, FileSource, ImageInfo, Source, StackSource, describe, discover
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.volume import IntensityKind, Modality

RULES = (
    "An image must be of the modality that the model was made for.",
    "A DICOM series is no case if it is a localizer, a screen shot, a projection or a reformat, shows another part of "
    "the body than the trunk, or has fewer slices than --min-slices.",
    "Of a DICOM study one series is taken, unless --all-series is given: axial before others, original before derived, "
    "abdomen or liver before other parts of the body, then the longest stretch of the body (to 20 mm), then slices "
    "nearest to 3 mm apart, then the lowest series number.",
    "A NIfTI, NRRD or MHA file is a case unless its name or folder says that it is a label map, it holds segments or "
    "8-bit values, or its values go nowhere near those of air although the model wants Hounsfield units.",
    "Pictures are no cases, because they have lost their Hounsfield units.",
    "What looks like a case and cannot be read is a case that fails, so that it is missed by nobody.",
)

_NOT_ANATOMY = {"LOCALIZER", "SCREEN SAVE", "SCREENSHOT", "PROJECTION IMAGE", "MIP", "MPR", "DOSE", "SCOUT"}
_OTHER_PARTS = re.compile(r"HEAD|BRAIN|SKULL|NECK|SINUS|ORBIT|CSPINE|KNEE|FOOT|ANKLE|HAND|WRIST|ELBOW|SHOULDER|LEG|ARM")
_WANTED_PARTS = re.compile(r"ABD|LIVER")
_LABELS = re.compile(
    r"(?:^|[^a-z])(?:labels?|labelmaps?|labels(?:tr|ts)|segs?|segmentations?|masks?|gt|ground.?truth|annotations?|"
    r"organs)(?:[^a-z]|$)",
    re.IGNORECASE,
)
_IDEAL_SPACING_MM = 3.0
_SAME_EXTENT_MM = 20.0
# CT compresses to about a byte a voxel, a label map to hundredths.
_BYTES_OF_AN_IMAGE = 0.25
_AIR_IS_BELOW = -200.0
# Characters of file names: a job is one line, and a worker takes no line of more than a megabyte.
_MOST_NAMES = 400_000


@dataclass(frozen=True)
class Found:
    """A case before it has a name.

    Parameters
    ----------
    place : str
        What tells it from the others, the same in every run on the same inputs.
    path : Path
        The file, or the folder of the series.
    files : tuple of str
        Of a DICOM series, relative to `path`.
    what : str
        For the person who reads the plan.
    modality, reference, label, problem
        As in `plan.Case`.
    """

    place: str
    path: Path
    files: tuple[str, ...] = ()
    what: str = ""
    modality: str | None = None
    reference: Path | None = None
    label: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Choice:
    """What decides which images are cases.

    Parameters
    ----------
    modality : Modality
        Of the model.
    wants_hu : bool
        Whether the model wants Hounsfield units.
    min_slices : int
        Fewest slices of a DICOM series.
    all_series : bool
        Take every usable series of a study.
    other_modalities : tuple of Modality
        That the model takes as well.
    """

    modality: Modality
    wants_hu: bool
    min_slices: int = 10
    all_series: bool = False
    other_modalities: tuple[Modality, ...] = ()

    @classmethod
    def of_model(cls, manifest: Manifest, min_slices: int, all_series: bool) -> Choice:
        """The choice for a model."""
        wants_hu = all(item.input_kind is IntensityKind.HU for item in manifest.inputs)
        return cls(manifest.modality, wants_hu, min_slices, all_series, manifest.modalities[1:])


def find_cases(root: Path, choice: Choice, on_event: OnEvent = ignore) -> tuple[list[Found], list[Left]]:
    """Find the cases under a folder, or the one that a file is.

    Parameters
    ----------
    root : Path
    choice : Choice
    on_event : callable
        Hears of the headers that are read.

    Returns
    -------
    cases : list of Found
        Ordered by where they lie.
    left : list of Left
        Images that are no cases.

    Raises
    ------
    InputError
        If there is no image.
    """
    sources = discover(root, on_event)
    base = root if root.is_dir() else root.parent
    cases, left = _series(base, [s.series for s in sources if isinstance(s, DicomSource)], choice)
    for source in sources:
        if isinstance(source, FileSource):
            reason = _why_no_image(source, choice) if root.is_dir() else ""
            info = describe(source, "")
            if reason:
                left.append(Left(source.path, info.kind, reason))
            else:
                place = _place(base, source.path)
                cases.append(Found(place, source.path, what=_facts(info), problem=info.problem))
        elif isinstance(source, StackSource):
            left.append(Left(source.files[0].parent, f"{source.format} pictures", "pictures have no Hounsfield units"))
    cases += _unreadable(base, root, sources)
    return sorted(cases, key=_order), sorted(left, key=lambda image: natural_key(str(image.path)))


def _order(case: Found) -> tuple[object, ...]:
    return natural_key(str(case.path)), case.place


def _place(base: Path, path: Path, uid: str = "") -> str:
    return f"{Path(os.path.relpath(path, base)).as_posix()}|{uid}"


def _facts(info: ImageInfo) -> str:
    """What an image is, without the name that stands beside it."""
    return info.summary.removeprefix(": ").replace(f", '{info.path.name}'", "")


def _series(base: Path, found: list[Series], choice: Choice) -> tuple[list[Found], list[Left]]:
    studies: dict[str, list[tuple[Series, ImageInfo]]] = defaultdict(list)
    left: list[Left] = []
    for series in found:
        info = describe(DicomSource(series), "")
        if reason := _why_no_series(series, info, choice):
            left.append(Left(_folder(series), _facts(info), reason))
        else:
            # Without a study's identifier the folder stands for it.
            studies[series.files[0].study or str(_folder(series))].append((series, info))
    cases = []
    for members in studies.values():
        ranked = sorted(members, key=lambda member: _rank(*member))
        taken = ranked if choice.all_series else ranked[:1]
        cases += [_found(base, series, info) for series, info in taken]
        for series, info in ranked[len(taken) :]:
            why = info.problem or "another series of the study suits better"
            left.append(Left(_folder(series), _facts(info), why))
    return cases, left


def _found(base: Path, series: Series, info: ImageInfo) -> Found:
    folder = _folder(series)
    files = tuple(sorted(Path(os.path.relpath(file.path, folder)).as_posix() for file in series.files))
    problem = info.problem
    if sum(map(len, files)) > _MOST_NAMES:
        problem = "The series has too many files; convert it to a multi-frame file or to NIfTI."
    return Found(_place(base, folder, series.uid), folder, files, _facts(info), problem=problem)


def _folder(series: Series) -> Path:
    return Path(os.path.commonpath([file.path.parent for file in series.files]))


def _why_no_series(series: Series, info: ImageInfo, choice: Choice) -> str:
    first = series.files[0]
    if series.kind is not ObjectKind.IMAGE:
        return "no image"
    wanted = (choice.modality, *choice.other_modalities)
    known = Modality.UNKNOWN not in (choice.modality, info.modality)
    if known and info.modality not in wanted:
        return f"{info.modality}, but the model is for {' and '.join(wanted)}"
    if info.modality is Modality.UNKNOWN and choice.modality is not Modality.UNKNOWN:
        named = series.modality[:8] if series.modality.isalnum() else "no modality"
        return f"neither CT nor MR ({named})"
    if other := sorted(_NOT_ANATOMY & set(first.image_type)):
        return f"its image type is {other[0].lower()}"
    if _OTHER_PARTS.search(first.body_part) and not _WANTED_PARTS.search(first.body_part):
        return "another part of the body"
    slices = info.shape[0] if info.shape else len(series.frames)
    if slices < choice.min_slices:
        return f"{slices} slice{'s' * (slices != 1)}, fewer than {choice.min_slices}"
    return ""


def _rank(series: Series, info: ImageInfo) -> tuple[object, ...]:
    first = series.files[0]
    extent, apart = 0.0, 1000.0
    if info.shape and info.spacing:
        extent, apart = info.shape[0] * info.spacing[0], info.spacing[0]
    return (
        bool(info.problem),
        info.orientation[2:3] not in ("S", "I"),
        "ORIGINAL" not in first.image_type,
        not _WANTED_PARTS.search(first.body_part),
        -round(extent / _SAME_EXTENT_MM),
        abs(apart - _IDEAL_SPACING_MM),
        series.number if series.number is not None else 1 << 31,
        series.uid,
    )


def _why_no_image(source: FileSource, choice: Choice) -> str:
    path = source.path
    if _LABELS.search(path.name.partition(".")[0]) or _LABELS.search(path.parent.name):
        return "its name says that it is a label map"
    info = describe(source, "")
    if info.problem:
        return ""
    if info.segments or info.kind == "seg.nrrd":
        return "a segmentation"
    if not choice.wants_hu:
        return ""
    if info.voxel_type in ("uint8", "bool"):
        return "8-bit values, no Hounsfield units"
    voxels = info.shape[0] * info.shape[1] * info.shape[2] if info.shape else 1
    if path.stat().st_size > _BYTES_OF_AN_IMAGE * voxels and info.voxel_type.startswith(("int", "float")):
        return ""
    found = describe(source, "", values=True).value_range
    if found is not None and found[0] > _AIR_IS_BELOW:
        return f"values from {found[0]:g} to {found[1]:g}, no Hounsfield units"
    return ""


def _unreadable(base: Path, root: Path, sources: Iterable[Source]) -> list[Found]:
    """Folders of DICOM files none of which can be read: they belong to no series, and must not vanish."""
    if not root.is_dir():
        return []
    known = {file.path for s in sources if isinstance(s, DicomSource) for file in s.series.files}
    others = {s.path for s in sources if isinstance(s, FileSource)}
    others |= {path for s in sources if isinstance(s, StackSource) for path in s.files}
    broken: dict[Path, int] = defaultdict(int)
    for path in files_below(root):
        if path not in known and path not in others and _is_dicom(path):
            broken[path.parent] += 1
    for path in known:
        broken.pop(path.parent, None)  # the series there says it itself
    return [
        Found(
            _place(base, folder),
            folder,
            what=f"{count} DICOM files",
            problem=f"None of the {count} DICOM files can be read; copy or export them again.",
        )
        for folder, count in broken.items()
    ]


def _is_dicom(path: Path) -> bool:
    try:
        return (sniff(path) or expected_format(path)) is FileFormat.DICOM
    except InputError:
        return expected_format(path) is FileFormat.DICOM


def with_references(cases: list[Found], root: Path, references: dict[str, Path]) -> list[Found]:
    """Give cases their references from a folder of segmentations, matched by name.

    Parameters
    ----------
    cases : list of Found
        Found under `root`.
    root : Path
    references : dict of str to Path
        By name without suffix. A file's case is named by the file (without nnU-Net's ``_0000``), a series' case by
        its folder or one of those above it.
    """
    matched = []
    for case in cases:
        parts = Path(os.path.relpath(case.path, root)).parts
        names = [parts[-1].partition(".")[0].removesuffix("_0000"), *reversed(parts)]
        name = next((name for name in names if name in references), None)
        matched.append(case if name is None or case.reference else replace(case, reference=references[name]))
    return matched
