"""Where model bundles are looked up: the user's folders first, then those that are shipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from LiverMarginLib.errors import BundleError, LiverMarginError
from LiverMarginLib.models.bundle import MANIFEST_FILE, Bundle, read_manifest
from LiverMarginLib.models.manifest import Manifest

ENVIRONMENT_VARIABLE = "LIVERMARGIN_MODELS"

_PACKAGE = Path(__file__).resolve().parents[1]
# A sentence that lists more of them is no longer read.
_MOST_TOLD = 3


@dataclass(frozen=True)
class BundleEntry:
    """A bundle found by `list_bundles`.

    Parameters
    ----------
    name : str
        The manifest's name, or the folder's where the manifest cannot be read.
    folder : Path
    manifest : Manifest, optional
        None where it cannot be read.
    problem : str
        What is wrong with it, as one sentence; empty if nothing is known to be. Weights are not checked here.
    """

    name: str
    folder: Path
    manifest: Manifest | None
    problem: str = ""


def user_model_folder() -> Path:
    """The folder of the user's own models on this platform; it need not exist."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "LiverMargin" / "Models"


def model_folders(named: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders that exist and are searched for bundles, the first taking precedence.

    Parameters
    ----------
    named : path, optional
        A folder that the user names for this call.

    Returns
    -------
    list of Path
        `named`; those of the environment variable ``LIVERMARGIN_MODELS`` (separated as in ``PATH``); the user's data
        folder; the shipped bundles, beside the package (source tree, Slicer extension) or inside it (pip).

    Raises
    ------
    BundleError
        If `named` is not a folder.
    """
    return list(_places(named))


def _places(named: str | os.PathLike[str] | None) -> dict[Path, str]:
    """`model_folders`, each with how `find_needed` calls it, for a path may name its user."""
    if named is not None and not Path(named).is_dir():
        raise BundleError(f"The model folder {os.fspath(named)} does not exist; name another.")
    variable = [Path(part) for part in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if part]
    shipped = "among the models that come with LiverMargin"
    candidates = [
        *([(Path(named), "beside it")] if named is not None else []),
        *((folder, f"in {ENVIRONMENT_VARIABLE}") for folder in variable),
        (user_model_folder(), "among your own models"),
        (_PACKAGE.parent / "Resources" / "Models", shipped),
        (_PACKAGE / "Resources" / "Models", shipped),
    ]
    places: dict[Path, str] = {}
    for folder, place in candidates:
        if folder.is_dir():
            places.setdefault(folder, place)
    return places


def _entries(parent: Path) -> Iterator[BundleEntry]:
    """All bundles of a model folder, damaged ones with their problem, by the names of their folders."""
    try:
        folders = sorted(folder for folder in parent.iterdir() if (folder / MANIFEST_FILE).is_file())
    except OSError:
        return  # a folder that may not be read holds no models for this user
    for folder in folders:
        if folder.name.startswith("."):
            continue  # a bundle that is just being written
        try:
            manifest = read_manifest(folder)
        except LiverMarginError as error:
            yield BundleEntry(folder.name, folder, None, error.message)
        else:
            yield BundleEntry(manifest.name, folder, manifest)


def list_bundles(named: str | os.PathLike[str] | None = None) -> list[BundleEntry]:
    """List the bundles of all model folders, by name; of two with the same name, the first found.

    A damaged bundle is listed with its problem, so that one bad folder hides no good one.
    """
    found: dict[str, BundleEntry] = {}
    for parent in model_folders(named):
        for entry in _entries(parent):
            if entry.name not in found or found[entry.name].manifest is None:
                found[entry.name] = entry
    return sorted(found.values(), key=lambda entry: entry.name)


def find_bundle(name_or_path: str | os.PathLike[str], named: str | os.PathLike[str] | None = None) -> Bundle:
    """Load the bundle that a user asks for.

    Parameters
    ----------
    name_or_path : str or path
        A name out of `list_bundles`, or a bundle's folder. A name wins over a folder of the same name in the working
        directory; write ``./name`` for that folder.
    named : path, optional
        A folder to search first.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If there is none of that name (the known ones are listed), or it cannot be used.
    """
    entries = list_bundles(named)
    for entry in entries:
        if entry.name == str(name_or_path):
            return Bundle.load(entry.folder)
    folder = Path(name_or_path)
    if folder.name == MANIFEST_FILE:
        folder = folder.parent
    folder = folder.absolute()  # what a model needs is looked for beside it, also beside "."
    if folder.is_dir():
        return Bundle.load(folder)
    known = ", ".join(entry.name for entry in entries if entry.manifest is not None) or "none"
    raise BundleError(
        f"There is no model {os.fspath(name_or_path)!r}; known models: {known}; name one of them or a model's folder."
    )


def find_needed(owner: Bundle, name: str, weights: Mapping[str, str]) -> Bundle:
    """Load the very bundle that another one was made with.

    Bundles of the name with other weights are passed over, as are damaged ones. Descriptions decide which bundle has
    the weights; only that one's files are read.

    Parameters
    ----------
    owner : Bundle
        The one that needs it. The folder in which it lies is searched first, then those of `model_folders`.
    name : str
    weights : mapping of str to str
        sha256 of each weights file, as in `Manifest.weights`.

    Returns
    -------
    Bundle
        The first that has both, the name and the weights.

    Raises
    ------
    BundleError
        If there is none; the sentence says what of that name there is.
    """
    others: list[str] = []
    problems: list[str] = []
    for parent, place in _places(owner.folder.parent).items():
        for entry in _entries(parent):
            if entry.name != name:
                continue
            if entry.manifest is not None and dict(entry.manifest.weights) != dict(weights):
                others.append(f"version {entry.manifest.version} with other weights {place}")
                continue
            try:
                return Bundle.load(entry.folder)
            except LiverMarginError as error:
                others.append(f"one that cannot be used {place}")
                problems.append(error.message)
    needs = f"The model {owner.manifest.name!r} needs the model {name!r}"
    if not others:
        raise BundleError(f"{needs}, and there is none of that name; put it beside this one.")
    told = [*others[:_MOST_TOLD], *([f"{len(others) - _MOST_TOLD} more"] if len(others) > _MOST_TOLD else [])]
    raise BundleError(
        f"{needs} with the weights that it was made with, and there is only {', '.join(told)}; put the right one "
        f"beside it, or make {owner.manifest.name!r} again.",
        " ".join(problems),
    )


def find_localiser(owner: Bundle, name: str) -> Bundle:
    """Load the bundle that finds the organ for another one, which knows it by its name alone.

    Raises
    ------
    BundleError
        If there is none that can be used.
    """
    try:
        return find_bundle(name, owner.folder.parent)
    except BundleError as error:
        raise BundleError(
            f"The model {owner.manifest.name!r} needs the model {name!r} to find the organ first, which cannot be "
            "used; put it beside this one.",
            error.message,
        ) from error
