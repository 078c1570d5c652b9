"""A CSV file that lists the cases of a batch."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from LiverMarginLib.batch.discovery import Choice, Found, find_cases
from LiverMarginLib.batch.plan import Left
from LiverMarginLib.errors import InputError, LiverMarginError

COLUMNS = ("image", "reference", "label", "series", "modality")
_MOST_BYTES = 64 << 20


def read_case_list(path: Path, choice: Choice) -> tuple[list[Found], list[Left]]:
    """Read a list of cases.

    Parameters
    ----------
    path : Path
        CSV in UTF-8 (comma, semicolon or tab) with a line of headings: ``image`` (a file or a DICOM folder) and any
        of ``reference`` (a segmentation), ``label`` (its value or name of the liver), ``series`` (a Series Instance
        UID, where a folder holds several) and ``modality``. Paths are relative to the file's folder. Other columns
        are left alone.
    choice : Choice
        Decides between the series of a folder.

    Returns
    -------
    cases : list of Found
        In the order of the file; a line whose image cannot be used is a case with a problem.
    left : list of Left

    Raises
    ------
    InputError
        If the file cannot be read, has no column ``image``, or no line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError("The list of cases is larger than any list of cases; check the path.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("The list of cases cannot be read; give it as CSV in UTF-8.", type(error).__name__) from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    headings = {str(name).strip().casefold(): name for name in reader.fieldnames or () if name}
    if "image" not in headings:
        raise InputError('The list of cases has no column "image"; its first line must hold the headings.')
    cases: list[Found] = []
    left: list[Left] = []
    try:
        for number, row in enumerate(reader, start=2):
            cells = {column: (row.get(headings[column]) or "").strip() for column in COLUMNS if column in headings}
            if cells["image"]:
                found, others = _case(path.parent, cells, choice, number)
                cases.append(found)
                left += others
            elif any(cells.values()):
                raise InputError(f"Line {number} of the list of cases names no image.")
    except csv.Error as error:
        raise InputError("The list of cases is no CSV that can be read; save it again as CSV in UTF-8.") from error
    if not cases:
        raise InputError("The list of cases is empty; give one line for each case.")
    return cases, left


def _case(base: Path, cells: dict[str, str], choice: Choice, line: int) -> tuple[Found, list[Left]]:
    image = base / Path(cells["image"]).expanduser()
    place = f"{cells['image']}|{cells.get('series', '')}"
    left: list[Left] = []
    try:
        if "\0" in cells["image"]:
            raise InputError("The image's name is no file name.")
        # A list names what it wants: a short or an odd series is taken too.
        chosen = replace(choice, min_slices=1, all_series=bool(cells.get("series")))
        found, left = find_cases(image, chosen)
        if uid := cells.get("series"):
            found = [case for case in found if case.place.endswith(f"|{uid}")]
        if len(found) != 1:
            raise InputError(
                f"Line {line} of the list of cases must name one image, but {len(found) or 'none'} can be used there; "
                "name the file, or the series."
            )
        case = replace(found[0], place=place)
    except LiverMarginError as error:
        case = Found(place, image, problem=error.message)
    modality = (cells.get("modality") or case.modality or "").upper() or None
    reference = cells.get("reference")
    return (
        replace(
            case,
            modality=modality,
            reference=base / Path(reference).expanduser() if reference else None,
            label=cells.get("label") or None,
        ),
        left,
    )
