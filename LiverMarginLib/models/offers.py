"""Models that are too large to ship: where their owners host them, and the sha256 that the download must have."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from LiverMarginLib.errors import BundleError, technical
from LiverMarginLib.jsonable import loads
from LiverMarginLib.models.json_reader import JsonObject, JsonProblem
from LiverMarginLib.models.store import model_folders

OFFERS_FILE = "available.json"
MOST_BYTES = 8 << 30
"""No download may be larger."""

_SCHEMA = "livermargin.models"
_VERSION = 1
_MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Offer:
    """A model that can be downloaded: a zip with one bundle in it.

    Parameters
    ----------
    name, version, description, licence : str
        As in the bundle.
    url : str
        ``https://`` or ``http://``.
    sha256 : str
        Of the zip, 64 lower-case hexadecimal digits.
    size : int
        Bytes of the zip.
    """

    name: str
    version: str
    description: str
    licence: str
    url: str
    sha256: str
    size: int


def is_sha256(text: str) -> bool:
    """Whether a text is 64 lower-case hexadecimal digits."""
    return bool(_SHA256.fullmatch(text))


def read_offers(path: Path) -> tuple[Offer, ...]:
    """Read a list of models that can be downloaded.

    Raises
    ------
    BundleError
        If the file is damaged, or of another version.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise JsonProblem("it is absurdly large")
        root = JsonObject(loads(path.read_bytes()), "the file")
        if (root.text("schema"), root.integer("schema_version")) != (_SCHEMA, _VERSION):
            raise JsonProblem("it is of another kind or version")
        offers = tuple(_offer(JsonObject(entry, "an entry")) for entry in root.array("models"))
        root.finish()
    except (OSError, ValueError) as error:
        reason = str(error) if isinstance(error, JsonProblem) else "it is not JSON that can be read"
        raise BundleError(
            f"The list of available models {path.name} cannot be used: {reason}; get it again.", technical(error)
        ) from error
    return offers


def list_offers(named: str | os.PathLike[str] | None = None) -> list[Offer]:
    """List the models that can be downloaded, by name, from the lists in all model folders; the first found wins.

    Parameters
    ----------
    named : path, optional
        A folder to look into first.

    Raises
    ------
    BundleError
        If a list is damaged.
    """
    found: dict[str, Offer] = {}
    for folder in model_folders(named):
        path = folder / OFFERS_FILE
        if path.is_file():
            for offer in read_offers(path):
                found.setdefault(offer.name, offer)
    return sorted(found.values(), key=lambda offer: offer.name)


def _offer(entry: JsonObject) -> Offer:
    offer = Offer(
        name=entry.text("name"),
        version=entry.text("version"),
        description=entry.text("description"),
        licence=entry.text("licence"),
        url=entry.text("url"),
        sha256=entry.text("sha256"),
        size=entry.integer("bytes"),
    )
    entry.finish()
    if not _NAME.fullmatch(offer.name):
        raise JsonProblem("a model's name is not 1 to 64 letters, digits, dots, dashes or underscores")
    if not offer.url.startswith(("https://", "http://")):
        raise JsonProblem(f"the address of {offer.name!r} does not begin with https:// or http://")
    if not is_sha256(offer.sha256):
        raise JsonProblem(f"the sha256 of {offer.name!r} is not 64 lower-case hexadecimal digits")
    if not 0 < offer.size <= MOST_BYTES:
        raise JsonProblem(f"the size of {offer.name!r} is not one of a model")
    return offer
