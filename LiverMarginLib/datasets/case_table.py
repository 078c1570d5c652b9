"""The case table: age, gender, health status and disease of each case, and which cases are one patient."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from LiverMarginLib.errors import InputError, technical

TABLE_NAMES = ("cases.csv", "case_table.csv")
_MISSING = frozenset({"", "-", "?", "na", "n/a", "nan", "none", "null", "unknown", "missing"})
_HEADINGS = {
    "case": ("case", "case id", "case number", "case no", "id", "name"),
    "patient": ("patient", "patient id", "subject", "subject id"),
    "age": ("age", "age years"),
    "gender": ("gender", "sex"),
    "health_status": ("health status", "health", "status"),
    "disease": ("disease", "diagnosis", "disease type", "type of disease", "pathology"),
}
_GENDERS = {"m": "male", "male": "male", "man": "male", "f": "female", "female": "female", "woman": "female"}


@dataclass(frozen=True)
class CaseInfo:
    """What the case table says about a case; None where it says nothing.

    Parameters
    ----------
    age : float, optional
        Years.
    gender : str, optional
        ``male`` or ``female``, or the table's own word.
    health_status, disease : str, optional
        The table's own words.
    """

    age: float | None = None
    gender: str | None = None
    health_status: str | None = None
    disease: str | None = None


@dataclass(frozen=True)
class CaseRow:
    """One row of the table; `patient` is None where the table has no such column or value."""

    case: str
    patient: str | None
    info: CaseInfo


def read_case_table(path: str | os.PathLike[str]) -> dict[str, CaseRow]:
    """Read a case table.

    A CSV file (comma, semicolon or tab) with a line of headings: ``case`` and any of ``patient``, ``age``,
    ``gender``, ``health_status``, ``disease``. Empty cells and words such as "unknown" are missing values; other
    columns are left alone.

    Returns
    -------
    dict of str to CaseRow
        By case, in the order of the file.

    Raises
    ------
    InputError
        If it cannot be read, has no column ``case``, names a case twice, or an age is not a number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        first_line = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first_line.count))
        columns, lines = _columns(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path.name} cannot be read; give the case table as CSV in UTF-8.", technical(error)
        ) from error
    if "case" not in columns:
        raise InputError(f'{path.name} has no column "case"; its first line must hold the headings.')
    rows: dict[str, CaseRow] = {}
    for number, row in enumerate(lines, start=2):
        values = {field: _value(row.get(heading)) for field, heading in columns.items()}
        case = values["case"]
        if case is None:
            if any(values.values()):
                raise InputError(f"Line {number} of {path.name} does not say which case it is about.")
            continue
        if case in rows:
            raise InputError(f"{path.name} describes case {case} twice; keep one line a case.")
        gender = values.get("gender")
        info = CaseInfo(
            _age(values.get("age"), number, path.name),
            _GENDERS.get(gender.casefold(), gender) if gender else None,
            values.get("health_status"),
            values.get("disease"),
        )
        rows[case] = CaseRow(case, values.get("patient"), info)
    return rows


def find_row(rows: Mapping[str, CaseRow], case_id: str) -> CaseRow | None:
    """The row of a case; ``Case 07``, ``case_7`` and ``7`` are one case where no row has its very name."""
    if case_id in rows:
        return rows[case_id]
    wanted = _normal(case_id)
    found = [row for name, row in rows.items() if _normal(name) == wanted]
    return found[0] if len(found) == 1 else None


def _normal(name: str) -> str:
    parts = re.findall(r"[a-z]+|\d+", name.casefold())
    return "-".join(part.lstrip("0") or "0" for part in parts if part not in ("case", "patient"))


def _columns(headings: object) -> dict[str, str]:
    columns: dict[str, str] = {}
    for heading in headings if isinstance(headings, list | tuple) else ():
        plain = re.sub(r"[^a-z]+", " ", str(heading).casefold()).strip()
        for field, names in _HEADINGS.items():
            if plain in names:
                columns.setdefault(field, heading)
    return columns


def _value(cell: object) -> str | None:
    plain = cell.strip() if isinstance(cell, str) else ""
    return None if plain.casefold() in _MISSING else plain


def _age(value: str | None, line: int, table: str) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"0*(\d{1,3}(?:[.,]\d+)?)\s*(?:y|yr|yrs|years?)?", value, re.IGNORECASE)
    if not found:
        raise InputError(
            f"Line {line} of {table} has an age that is not a number of years; correct it or leave it empty."
        )
    return float(found.group(1).replace(",", "."))
