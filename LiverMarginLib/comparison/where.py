"""Where in the liver a prediction errs: by thirds of the reference's extent.

Thirds of a bounding box are no anatomy. They are the same for every model and need no atlas; the names say which
part of a liver in the usual position lies there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from LiverMarginLib.comparison.result import RegionError
from LiverMarginLib.metrics.overlap import ratio
from LiverMarginLib.metrics.slicepass import Extent
from LiverMarginLib.metrics.suite import Measures

_ALL = (0, 1, 2)

# Thirds along (k, j, i) of the axial view: inferior to superior, anterior to posterior, patient's right to left.
REGIONS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "dome": ((2,), _ALL, _ALL),
    "middle": ((1,), _ALL, _ALL),
    "lower tip": ((0,), _ALL, _ALL),
    "right lobe side": (_ALL, _ALL, (0,)),
    "centre": (_ALL, _ALL, (1,)),
    "left lobe side": (_ALL, _ALL, (2,)),
    # The porta hepatis faces down and back from the middle of the organ.
    "hilum side": ((0, 1), (1, 2), (1,)),
}


def errors_by_region(measures: Measures, extent: Extent | None, voxel_volume: float) -> dict[str, RegionError]:
    """Add the errors up by region.

    Parameters
    ----------
    measures : Measures
    extent : Extent or None
        Of the reference; None, and then an empty result, if there is no reference.
    voxel_volume : float
        In mm³.

    Returns
    -------
    dict of str to RegionError
        The regions overlap: dome, middle and lower tip make up the whole; so do the three from right to left.
    """
    if extent is None:
        return {}
    cuts = extent.thirds()
    n_slices = len(measures.overlap.reference)
    third_of_slice = np.searchsorted(cuts[0], np.arange(n_slices), side="right")
    points = measures.margin.reference_points
    third_of_point = [np.searchsorted(cuts[axis], points[:, axis], side="right") for axis in range(3)]
    distance = np.abs(measures.margin.at_reference)
    cells = measures.cells
    all_errors = int(cells.missed.sum() + cells.extra.sum())

    regions = {}
    for name, (k, j, i) in REGIONS.items():
        chosen = np.ix_(np.flatnonzero(np.isin(third_of_slice, k)), np.array(j), np.array(i))
        reference, missed, extra = (int(c[chosen].sum()) for c in (cells.reference, cells.missed, cells.extra))
        here = np.logical_and.reduce([np.isin(t, wanted) for t, wanted in zip(third_of_point, (k, j, i), strict=True)])
        common = reference - missed
        regions[name] = RegionError(
            reference * voxel_volume / 1000,
            missed * voxel_volume / 1000,
            extra * voxel_volume / 1000,
            float(ratio(missed + extra, all_errors)),
            float(ratio(2 * common, 2 * common + missed + extra)),
            float(distance[here].mean()) if here.any() else float("nan"),
            int(np.count_nonzero(here)),
        )
    return regions
