"""Several networks behind one `Segmenter`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.inference.segmenter import (
    Device,
    Precision,
    Runtime,
    Segmenter,
    confined,
    images_side_by_side,
    load_segmenter,
    precision_of,
)
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.ensemble_architecture import Rule, check_member
from LiverMarginLib.models.store import find_needed
from LiverMarginLib.preprocessing import FloatImage

# A detector's box ends at the organ's edge or a little within it.
_MARGIN_SHARE = 0.03


class EnsembleSegmenter:
    """Runs its members one after another on the same batch; see `Segmenter`.

    Parameters
    ----------
    members : sequence of Segmenter
    rule : Rule
    threshold : float
        Probability from which the second member sees something, for `Rule.INSIDE`.
    """

    def __init__(self, members: Sequence[Segmenter], rule: Rule, threshold: float = 0.5) -> None:
        self._members = list(members)
        self._rule = rule
        self._threshold = threshold
        self.input_size = members[0].input_size
        self.classes = members[0].classes
        self.device = members[0].device
        self.workers = max(images_side_by_side(member) for member in members)
        self.runtime = " + ".join(dict.fromkeys(member.runtime for member in members))
        self.precision = " + ".join(dict.fromkeys(map(precision_of, members)))

    def confined(self, region: npt.NDArray[np.bool_], dark: FloatImage) -> EnsembleSegmenter:
        """See `Confinable`."""
        members = [confined(member, region, dark) for member in self._members]
        return EnsembleSegmenter(members, self._rule, self._threshold)

    def predict(self, batch: FloatImage) -> FloatImage:
        """See `Segmenter.predict`."""
        if self._rule is Rule.INSIDE:
            dense, detector = self._members
            found = detector.predict(batch).max(axis=1) >= self._threshold
            # Copied, for the network's output may be its own memory.
            return np.where(np.stack([around(mask) for mask in found])[:, None], dense.predict(batch), np.float32(0))
        total = self._members[0].predict(batch).copy()
        for member in self._members[1:]:
            total += member.predict(batch)
        return total / np.float32(len(self._members))


def around(mask: np.ndarray) -> np.ndarray:
    """Return the boxes of the pieces of a mask, shape (h, w), with a margin of a few hundredths of the side."""
    inside = np.zeros_like(mask)
    margin = round(_MARGIN_SHARE * max(mask.shape))
    for rows, columns in ndimage.find_objects(ndimage.label(mask)[0]):
        wider = (slice(max(0, side.start - margin), side.stop + margin) for side in (rows, columns))
        inside[tuple(wider)] = True
    return inside


def load_ensemble(
    bundle: Bundle, *, device: Device, runtime: Runtime, threads: int | None, precision: Precision
) -> Segmenter:
    """Load the members of an ensemble; see `LiverMarginLib.inference.segmenter.load_segmenter`."""
    members: list[Segmenter] = []
    threshold = 0.5
    for wanted in bundle.manifest.parameters["members"]:
        member = find_needed(bundle, wanted["name"], wanted["weights"])
        check_member(bundle.manifest, member.manifest)
        members.append(load_segmenter(member, device=device, runtime=runtime, threads=threads, precision=precision))
        threshold = member.manifest.mask_threshold
    return EnsembleSegmenter(members, Rule(bundle.manifest.parameters["rule"]), threshold)
