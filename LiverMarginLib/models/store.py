"""Where model bundles are looked up: the user's folders first, then those that are shipped."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from LiverMarginLib.errors import BundleError, LiverMarginError
from LiverMarginLib.models.bundle import MANIFEST_FILE, Bundle, read_manifest
from LiverMarginLib.models.manifest import Manifest

ENVIRONMENT_VARIABLE = "LIVERMARGIN_MODELS"

_PACKAGE = Path(__file__).resolve().parents[1]


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
    if named is not None and not Path(named).is_dir():
        raise BundleError(f"The model folder {os.fspath(named)} does not exist; name another.")
    variable = [Path(part) for part in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if part]
    candidates = [
        *([Path(named)] if named is not None else []),
        *variable,
        user_model_folder(),
        _PACKAGE.parent / "Resources" / "Models",
        _PACKAGE / "Resources" / "Models",
    ]
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]


def list_bundles(named: str | os.PathLike[str] | None = None) -> list[BundleEntry]:
    """List the bundles of all model folders, by name; of two with the same name, the first found.

    A damaged bundle is listed with its problem, so that one bad folder hides no good one.
    """
    found: dict[str, BundleEntry] = {}
    for parent in model_folders(named):
        try:
            folders = sorted(folder for folder in parent.iterdir() if (folder / MANIFEST_FILE).is_file())
        except OSError:
            continue  # a folder that may not be read holds no models for this user
        for folder in folders:
            if folder.name.startswith("."):
                continue  # a bundle that is just being written
            try:
                manifest = read_manifest(folder)
                entry = BundleEntry(manifest.name, folder, manifest)
            except LiverMarginError as error:
                entry = BundleEntry(folder.name, folder, None, error.message)
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
    if folder.is_dir():
        return Bundle.load(folder)
    known = ", ".join(entry.name for entry in entries if entry.manifest is not None) or "none"
    raise BundleError(
        f"There is no model {os.fspath(name_or_path)!r}; known models: {known}; name one of them or a model's folder."
    )
