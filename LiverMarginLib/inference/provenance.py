"""How a result came to be, for its file: versions, model, runtime, device."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import LiverMarginLib
from LiverMarginLib.inference.segmenter import Segmenter, precision_of
from LiverMarginLib.models.bundle import Bundle


def provenance(bundle: Bundle, segmenter: Segmenter) -> dict[str, Any]:
    """Return the record, of plain JSON types and without patient identity."""
    return {
        "software": {
            "LiverMargin": LiverMarginLib.__version__,
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        },
        "model": model_record(bundle),
        "runtime": segmenter.runtime,
        "device": segmenter.device,
        "precision": precision_of(segmenter),
    }


def model_record(bundle: Bundle) -> dict[str, Any]:
    """Return which model it was; an ensemble is what its members are."""
    manifest = bundle.manifest
    members = manifest.parameters.get("members")
    return {
        "name": manifest.name,
        "version": manifest.version,
        "architecture": manifest.architecture,
        "sha256": dict(manifest.weights),
        **({} if members is None else {"members": members}),
    }
