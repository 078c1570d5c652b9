"""The error of a manifest that cannot be used."""

from __future__ import annotations

from LiverMarginLib.errors import BundleError


class ManifestError(BundleError):
    """A manifest that contradicts itself or the schema; `why` is a clause, made into one sentence."""

    def __init__(self, why: str) -> None:
        super().__init__(f"The model's description (model.json) cannot be used: {why}; get the model from its source.")
