"""Model bundles on disk: a folder with ``model.json``, weights, an ONNX graph and a model card.

A bundle comes from anywhere, so it is treated as hostile: its description is checked and its files are compared with
the sha256 in it before anything is made of them, files have fixed names, and nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverMarginLib.digest import sha256_of
from LiverMarginLib.errors import BundleError, DependencyError, LiverMarginError, ResourceError, technical
from LiverMarginLib.models.architectures import Architecture, check_manifest, find_architecture
from LiverMarginLib.models.card import model_card
from LiverMarginLib.models.manifest import ONNX_FILE, SAFETENSORS_FILE, WEIGHT_FILES, Manifest

if TYPE_CHECKING:
    import torch

MANIFEST_FILE = "model.json"
CARD_FILE = "README.md"

_MAX_MANIFEST_BYTES = 1 << 20
# The largest network of the project, in single precision, has a sixteenth of this.
_MAX_WEIGHTS_BYTES = 4 << 30
# Coarser than the clock of any file system.
_SETTLED_SECONDS = 3.0
_digests: dict[Path, tuple[tuple[int, ...], str]] = {}


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Check a bundle's description and the sha256 of its weights.

        Parameters
        ----------
        folder : path

        Returns
        -------
        Bundle

        Raises
        ------
        BundleError
            If it is not a bundle, or is damaged, tampered with, of another schema or of an unknown architecture.
        ResourceError
            If its files may not be read.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not manifest.weights and find_architecture(manifest.architecture).has_weights:
            raise BundleError(f"The model {manifest.name!r} lists no weights; get it again from its source.")
        bundle = cls(folder, manifest)
        for file_name in manifest.weights:
            bundle._check(file_name, _sha256_of_file(bundle._path(file_name), file_name))
        return bundle

    @property
    def architecture(self) -> Architecture:
        """The kind of network."""
        return find_architecture(self.manifest.architecture)

    def has(self, file_name: str) -> bool:
        """Whether the weights are there in the form of `file_name`."""
        return file_name in self.manifest.weights

    def read(self, file_name: str) -> bytes:
        """Read a weights file whole, and make sure that just these bytes carry the sha256 of the manifest.

        Raises
        ------
        BundleError
            If the bundle has no such file or the file has been changed.
        """
        if not self.has(file_name):
            raise BundleError(f"The model {self.manifest.name!r} has no {file_name}; choose another runtime.")
        try:
            content = self._path(file_name).read_bytes()
        except OSError as error:
            raise _unreadable(file_name, error) from error
        self._check(file_name, hashlib.sha256(content).hexdigest())
        return content

    def torch_weights(self) -> dict[str, torch.Tensor]:
        """Read the weights for torch, in single precision, on the CPU.

        Raises
        ------
        BundleError
            If they are not a valid safetensors file.
        DependencyError
            If torch or safetensors is not installed.
        """
        try:
            import safetensors.torch
            import torch  # noqa: F401
        except ImportError as error:
            raise DependencyError(
                "PyTorch and safetensors are needed to run this model by torch; install livermargin[train] or choose "
                "the runtime onnx."
            ) from error
        try:
            state = safetensors.torch.load(self.read(SAFETENSORS_FILE))
        except LiverMarginError:
            raise
        except Exception as error:  # safetensors raises several kinds, all of them for a malformed file
            raise BundleError(
                f"The weights of the model {self.manifest.name!r} are not a valid safetensors file; get it again.",
                technical(error),
            ) from error
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}

    def torch_module(self) -> torch.nn.Module:
        """Make the network with its weights in single precision, in evaluation mode on the CPU.

        Raises
        ------
        BundleError
            If the weights are not a valid safetensors file or do not fit the architecture.
        DependencyError
            If torch or safetensors is not installed.
        """
        state = self.torch_weights()
        import torch

        # On the meta device nothing is allocated, so that absurd parameters fail the comparison and not the machine.
        with torch.device("meta"):
            module: torch.nn.Module = self.architecture.build(self.manifest.parameters)
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if expected != found:
            differing = sorted(set(expected.items()) ^ set(found.items()))
            raise BundleError(
                f"The weights of the model {self.manifest.name!r} do not fit its architecture; get it again.",
                f"first difference: {differing[0]}",
            )
        module.load_state_dict(state, assign=True)
        return module.eval().requires_grad_(False)

    def _path(self, file_name: str) -> Path:
        path = self.folder / file_name
        if not path.is_file():
            raise BundleError(
                f"The model {self.manifest.name!r} is incomplete: {file_name} is missing; get the model again."
            )
        if path.stat().st_size > _MAX_WEIGHTS_BYTES:
            raise BundleError(f"{file_name} of the model {self.manifest.name!r} is absurdly large; it is not used.")
        return path

    def _check(self, file_name: str, digest: str) -> None:
        if digest != self.manifest.weights[file_name]:
            raise BundleError(
                f"{file_name} of the model {self.manifest.name!r} is damaged or has been changed: its sha256 is not "
                "the one in model.json; get the model again from a source you trust."
            )


def read_manifest(folder: Path) -> Manifest:
    """Read and check the description of the bundle in `folder`, without touching its weights.

    Raises
    ------
    BundleError
        If there is none or it cannot be used.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{folder.name or folder} is not a model: there is no {MANIFEST_FILE} in it.")
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"The {MANIFEST_FILE} in {folder.name} is absurdly large; it is not a model's description.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(MANIFEST_FILE, error) from error
    manifest = Manifest.from_json(content)
    check_manifest(manifest)
    return manifest


def save_bundle(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    *,
    module: torch.nn.Module,
    half: bool = False,
    onnx: bool = True,
    overwrite: bool = False,
) -> Bundle:
    """Save a trained network as a bundle; the folder appears whole or not at all.

    Parameters
    ----------
    folder : path
        Where the bundle goes; its parent is made if need be.
    manifest : Manifest
        Its `weights` are filled in here.
    module : torch.nn.Module
        The network of the manifest's architecture, on any device, in any mode; it is not changed.
    half : bool
        Store the weights in half precision. Computation stays in single precision, and both forms of the weights hold
        the same rounded values.
    onnx : bool
        Also write the ONNX graph (its activation inside, so that it gives probabilities; its weights where both
        runtimes find them, see `shared_weights`).
    overwrite : bool
        Replace a bundle that is already there. Another folder is never replaced.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If the weights are not finite, do not fit half precision or are not those of the architecture; if the folder
        is taken.
    DependencyError
        If a package that writes safetensors or ONNX is not installed.
    ResourceError
        If the folder cannot be written.
    """
    import safetensors.torch
    import torch

    check_manifest(manifest)
    state = _storable_state(module, half)
    files = {SAFETENSORS_FILE: safetensors.torch.save(state)}
    if onnx:
        from LiverMarginLib.models.onnx_export import export_onnx
        from LiverMarginLib.models.shared_weights import share_weights

        architecture = find_architecture(manifest.architecture)
        with torch.device("cpu"):
            twin = architecture.build(manifest.parameters)
        twin.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        )
        graph = export_onnx(
            twin, (1, manifest.channels, *manifest.input_size), activation=architecture.activation, half=half
        )
        files[ONNX_FILE] = share_weights(graph, files[SAFETENSORS_FILE])
    return write_bundle(folder, manifest, files, overwrite=overwrite)


def write_bundle(
    folder: str | os.PathLike[str], manifest: Manifest, weights: Mapping[str, bytes], *, overwrite: bool = False
) -> Bundle:
    """Write a bundle from the content of its weights files; the folder appears whole or not at all.

    For architectures that make their own ONNX graph; others use `save_bundle`.

    Parameters
    ----------
    folder, manifest, overwrite
        As for `save_bundle`.
    weights : mapping of str to bytes
        Content of ``weights.safetensors``, ``model.onnx`` or both; of neither for an ensemble.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If there are no weights, a file has another name, the manifest does not fit its architecture, or the folder
        is taken.
    ResourceError
        If the folder cannot be written.
    """
    folder = Path(folder)
    expected = find_architecture(manifest.architecture).has_weights
    if bool(weights) is not expected or not set(weights) <= set(WEIGHT_FILES):
        raise BundleError(f"A model's weights must be in {' or '.join(WEIGHT_FILES)}.")
    digests = {name: hashlib.sha256(weights[name]).hexdigest() for name in WEIGHT_FILES if name in weights}
    manifest = dataclasses.replace(manifest, weights=digests)
    check_manifest(manifest)
    if folder.exists() and not (overwrite and (folder / MANIFEST_FILE).is_file()):
        raise BundleError(f"The folder {folder.name} exists already; choose another name for the model.")
    files: dict[str, bytes] = {
        **weights,
        MANIFEST_FILE: manifest.to_json().encode(),
        CARD_FILE: model_card(manifest).encode(),
    }
    try:
        _publish(folder, files)
    except OSError as error:
        raise ResourceError(
            f"The model cannot be saved in {folder.name} ({error.strerror}); choose another folder or free some space."
        ) from error
    return Bundle(folder, manifest)


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new, old = workplace / "new", workplace / "old"
    try:
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        if folder.exists() or not old.exists():  # else the old bundle could not be put back, and this is its only copy
            shutil.rmtree(workplace, ignore_errors=True)


def _storable_state(module: torch.nn.Module, half: bool) -> dict[str, Any]:
    import torch

    state = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().cpu().contiguous().clone()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16 if half else torch.float32)
            if not torch.isfinite(tensor).all():
                raise BundleError(
                    "The network's weights are not finite numbers"
                    + (" in half precision; save them in single precision." if half else "; train it again.")
                )
        state[name] = tensor
    return state


def _sha256_of_file(path: Path, file_name: str) -> str:
    """Return a file's sha256, from memory if the file is as it was: a warm worker starts its next job the sooner.

    What is computed with is hashed again, whatever this says (`Bundle.read`).
    """
    try:
        before = path.stat()
        state = (before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino)
        known = _digests.get(path)
        if known is not None and known[0] == state:
            return known[1]
        digest = sha256_of(path)
    except OSError as error:
        raise _unreadable(file_name, error) from error
    # Of a file that has just been written another version might bear the same times.
    if time.time() - max(before.st_mtime, before.st_ctime) > _SETTLED_SECONDS:
        _digests[path] = (state, digest)
    return digest


def _unreadable(file_name: str, error: OSError) -> ResourceError:
    return ResourceError(f"{file_name} of the model cannot be read ({error.strerror}); check the permissions.")
