"""What cases are called: numbers that stay with a case from run to run and say nothing about the patient.

The registry remembers each case by a keyed hash of where it lies, so that a resumed run gives the same number to the
same place even when its content has changed or other cases have come in between. It holds no path.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.atomic import atomic_path

_DIGITS = 3


class Registry:
    """Names of cases.

    Parameters
    ----------
    path : Path
        The file in which they are kept; see `load`.
    """

    def __init__(self, path: Path, salt: bytes, numbers: dict[str, int]) -> None:
        self._path = path
        self._salt = salt
        self._numbers = numbers

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read the registry, or begin one.

        Raises
        ------
        InputError
            If it is damaged.
        """
        if not path.exists():
            return cls(path, secrets.token_bytes(16), {})
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            numbers = {str(key): int(number) for key, number in values["cases"].items()}
            return cls(path, bytes.fromhex(values["salt"]), numbers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "The output folder's list of case numbers cannot be read; choose another output folder.", repr(error)
            ) from error

    def names(self, places: Iterable[str]) -> dict[str, str]:
        """Give every place a name; new ones get the next numbers in the order given.

        Parameters
        ----------
        places : iterable of str
            Whatever identifies a case among the inputs; only a keyed hash of it is kept.

        Returns
        -------
        dict of str to str
            By place.
        """
        found = {}
        for place in places:
            key = hmac.new(self._salt, place.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:32]
            number = self._numbers.setdefault(key, max(self._numbers.values(), default=0) + 1)
            found[place] = f"case-{number:0{_DIGITS}d}"
        return found

    def save(self) -> None:
        """Write it, whole or not at all."""
        with atomic_path(self._path) as temporary:
            values = {"salt": self._salt.hex(), "cases": self._numbers}
            temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")


def write_mapping(places: Mapping[str, Path], path: Path) -> None:
    """Write which case is which image, for whoever asked for it; only its owner may read the file."""
    with atomic_path(path) as temporary:
        if os.name == "posix":
            temporary.chmod(0o600)
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("case", "image"))
            writer.writerows((name, str(place)) for name, place in sorted(places.items()))
