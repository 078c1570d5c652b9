"""Install a model: one of those that are offered, from an address, or from a zip or folder on disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.digest import sha256_of
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job

if TYPE_CHECKING:
    from LiverMarginLib.models.bundle import Bundle

_MOST_FILES = 64
_MOST_FILE_BYTES = 4 << 30


@dataclass(frozen=True)
class AddModelJob(Job):
    """Put a model into a folder where all doors find it.

    Parameters
    ----------
    source : str
        Name of an offered model (see `LiverMarginLib.models.offers`), an address (``https://``, ``http://``) of a zip
        with a bundle in it, or the path of such a zip.
    sha256 : str, optional
        Of the zip; required for an address, that of an offer is known.
    folder : str, optional
        Where models go; by default the user's own folder.
    overwrite : bool
        Replace a model of the same name.
    """

    kind: ClassVar[str] = "add-model"

    source: str
    sha256: str | None = None
    folder: str | None = None
    overwrite: bool = False

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Download, check, install; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.models.store import user_model_folder

        sha256 = None if self.sha256 is None else self.sha256.strip().lower()
        folder = user_model_folder() if self.folder is None else Path(self.folder)
        address, expected, most, name = self._what(sha256)
        folder.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that the finished model only has to be renamed; hidden, so that nobody lists it.
        with tempfile.TemporaryDirectory(prefix=".adding.", dir=folder) as workplace:
            if address is None:
                archive = Path(self.source)
                _check_sha256(archive, expected)
            else:
                from LiverMarginLib.io.download import download

                assert expected is not None
                archive = Path(workplace) / "model.zip"
                download(address, expected, archive, most_bytes=most, on_event=on_event, cancel=cancel)
            cancel.check()
            on_event(Progress(0, 1, "install"))
            bundle = _unpack(archive, Path(workplace) / "new")
            if name is not None and bundle.manifest.name != name:
                raise InputError(
                    f"The zip holds a model {bundle.manifest.name!r}, not {name!r}; nothing was installed."
                )
            final = self._publish(bundle, folder, Path(workplace))
            on_event(Progress(1, 1, "install"))
        return {"name": bundle.manifest.name, "version": bundle.manifest.version, "folder": str(final)}

    def _what(self, sha256: str | None) -> tuple[str | None, str | None, int, str | None]:
        """Address (None for a path), sha256, largest size and name of what is asked for, as far as known."""
        from LiverMarginLib.models.offers import MOST_BYTES, is_sha256, list_offers

        if sha256 is not None and not is_sha256(sha256):
            raise InputError("A sha256 is 64 hexadecimal digits; copy it again from the model's owner.")
        if "://" in self.source:
            if sha256 is None:
                raise InputError(
                    "Say which sha256 the file at this address has (--sha256), as the model's owner names it."
                )
            return self.source, sha256, MOST_BYTES, None
        if Path(self.source).exists():
            return None, sha256, MOST_BYTES, None
        offers = {offer.name: offer for offer in list_offers()}
        offer = offers.get(self.source)
        if offer is None:
            known = ", ".join(offers) or "none"
            raise InputError(
                f"There is no file, and no available model, of the name {self.source!r}; available models: {known}."
            )
        return offer.url, offer.sha256, offer.size, offer.name

    def _publish(self, bundle: Bundle, folder: Path, workplace: Path) -> Path:
        """Move the checked model to its place, which then holds the old one or the new one, whole."""
        final = folder / bundle.manifest.name
        old = workplace / "old"
        if final.exists():
            from LiverMarginLib.models.bundle import MANIFEST_FILE

            if not self.overwrite or not (final / MANIFEST_FILE).is_file():
                raise InputError(
                    f"There is a model {bundle.manifest.name!r} already; replace it with --overwrite, or remove it."
                )
            final.rename(old)
        try:
            bundle.folder.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        return final


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected is None or path.is_dir():
        return
    if sha256_of(path) != expected:
        raise InputError(f"{path.name} is not the file that is meant: its sha256 is another one; get it again.")


def _unpack(archive: Path, folder: Path) -> Bundle:
    """Write the files of the one bundle in a zip or folder into a new folder, and check it as every bundle is."""
    from LiverMarginLib.io.archive import ZipLimits, open_tree
    from LiverMarginLib.models.bundle import CARD_FILE, MANIFEST_FILE, Bundle
    from LiverMarginLib.models.manifest import WEIGHT_FILES

    tree = open_tree(archive, ZipLimits(_MOST_FILES, _MOST_FILE_BYTES, 2 * _MOST_FILE_BYTES))
    roots = [PurePosixPath(name).parent for name in tree.names if PurePosixPath(name).name == MANIFEST_FILE]
    if len(roots) != 1:
        raise InputError(f"{archive.name} holds {len(roots)} models ({MANIFEST_FILE}) where one is expected.")
    folder.mkdir()
    for name in tree.names:
        path = PurePosixPath(name)
        plain = path.name in (MANIFEST_FILE, CARD_FILE, *WEIGHT_FILES) or path.suffix == ".png"  # the card's pictures
        if path.parent != roots[0] or not plain:
            raise InputError(f"{archive.name} holds files that no model has, such as {path.name!r}; it is not used.")
        (folder / path.name).write_bytes(tree.read(name))
    return Bundle.load(folder)
