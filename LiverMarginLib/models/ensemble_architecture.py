"""Several models as one: a bundle without weights of its own, that names its members and how they are combined."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from enum import StrEnum

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.architectures import Activation, Architecture
from LiverMarginLib.models.bundle import Bundle, write_bundle
from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest import Manifest, ManifestError, Task

_MOST_MEMBERS = 8
# What all members must agree on with the ensemble: one batch of inputs serves them all.
_SHARED = ("modality", "input_kind", "window", "input_size", "context_slices", "context_mm", "labels")


class Rule(StrEnum):
    """How the members' probabilities become one.

    ``mean`` is their mean. ``inside`` is the first member's, wherever the second member sees something within a small
    margin: a detector says where the liver is, and a dense network how it is bounded.
    """

    MEAN = "mean"
    INSIDE = "inside"


def _check_ensemble(manifest: Manifest) -> None:
    parameters = JsonObject(dict(manifest.parameters), "the ensemble's parameters")
    rule = parameters.choice("rule", Rule)
    members = [JsonObject(values, "a member") for values in parameters.array("members")]
    for member in members:
        member.text("name")
        if not all(isinstance(digest, str) for digest in member.mapping("weights").values()):
            raise ManifestError("the sha256 of a member's weights is not a text")
        member.finish()
    parameters.finish()
    if not 2 <= len(members) <= _MOST_MEMBERS or (rule is Rule.INSIDE and len(members) != 2):
        raise ManifestError(f"an ensemble has two to {_MOST_MEMBERS} members, and exactly two with the rule inside")
    if manifest.volumetric or manifest.task is not Task.SEGMENTATION:
        raise ManifestError("an ensemble segments slices")


ENSEMBLE = Architecture(
    name="ensemble",
    check=_check_ensemble,
    segmenter="LiverMarginLib.inference.ensemble:load_ensemble",
    # Its members' probabilities are combined, not their logits.
    activation=Activation.IDENTITY,
    has_weights=False,
)


def save_ensemble(
    folder: str | os.PathLike[str],
    name: str,
    members: Sequence[Bundle],
    rule: Rule = Rule.MEAN,
    *,
    version: str = "1.0.0",
) -> Bundle:
    """Write a bundle that combines slice-wise models which see the same input.

    The members themselves are not copied: they are found by their names and the weights that they have now, beside the
    ensemble first.

    Parameters
    ----------
    folder, name, version
        Of the new bundle.
    members : sequence of Bundle
    rule : Rule

    Raises
    ------
    BundleError
        If the members do not fit together, or the folder is taken.
    ResourceError
        If the folder cannot be written.
    """
    if not members:
        raise BundleError("An ensemble needs members; name two models or more.")
    first = members[0].manifest
    for other in members:
        check_member(first, other.manifest)
    names = " and ".join(member.manifest.name for member in members)
    # Each member has a threshold of its own; of their probabilities together only a half is fair.
    manifest = dataclasses.replace(
        first,
        name=name,
        version=version,
        architecture=ENSEMBLE.name,
        parameters={
            "rule": rule.value,
            "members": [{"name": member.manifest.name, "weights": dict(member.manifest.weights)} for member in members],
        },
        thresholds={"mask": first.mask_threshold if rule is Rule.INSIDE else 0.5},
        training={"members": names},
        description=f"{names}: {'the mean' if rule is Rule.MEAN else 'the first inside the second'}.",
    )
    return write_bundle(folder, manifest, {})


def check_member(manifest: Manifest, member: Manifest) -> None:
    """Raise `BundleError` unless a member takes the same input and gives the same labels as the others."""
    if member.architecture == ENSEMBLE.name:
        raise BundleError(f"The model {member.name!r} is an ensemble itself; name its members instead.")
    for field in _SHARED:
        if getattr(manifest, field) != getattr(member, field):
            raise BundleError(
                f"The models {manifest.name!r} and {member.name!r} cannot be combined, for they differ in their "
                f"{field.replace('_', ' ')}; choose models that see the same input."
            )
