"""HD, HD95, ASSD and NSD against brute force over all pairs of points, by hand, and against each other."""

from __future__ import annotations

import itertools
import math

import golden_metrics as golden
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from LiverMarginLib.metrics.nearest import nearest_distances
from LiverMarginLib.metrics.surface import SurfaceDistances, surfel_surface_distances, voxel_surface_distances
from LiverMarginLib.metrics.surfels import neighbour_codes, surfel_areas

PAIRS = golden.difficult_pairs()
SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.78, 0.78), (0.5, 2.3, 1.1)]
FULL = [name for name, (a, b) in PAIRS.items() if a.any() and b.any()]
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)))


def numbers(distances: SurfaceDistances) -> dict[str, float]:
    return {
        "hd": distances.hausdorff(),
        "hd95": distances.hausdorff_percentile(95),
        "assd": distances.assd(),
        **{f"nsd{t:g}": distances.nsd(t) for t in (1.0, 2.0, 3.0)},
    }


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", FULL)
def test_voxel_distances_equal_those_over_all_pairs_of_voxels(name, spacing):
    reference, prediction = PAIRS[name]
    ours = numbers(voxel_surface_distances(reference, prediction, spacing))
    theirs = golden.surface_numbers(*golden.voxel_distances(reference, prediction, spacing))
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", FULL)
def test_surfel_distances_equal_those_over_all_pairs_of_elements(name, spacing):
    masks = PAIRS[name]
    if name.startswith("random"):  # nearly every voxel is surface, and all pairs are too many
        masks = tuple(m[:5, :9, :11] for m in masks)
    elements, areas = [], []
    for mask in masks:
        padded = np.pad(mask, 1)
        found = []
        for corner in np.ndindex(*(n - 1 for n in padded.shape)):
            cube = padded[tuple(slice(c, c + 2) for c in corner)]
            if cube.any() and not cube.all():
                found.append((*corner, golden_area(cube, spacing)))
        elements.append(np.array([f[:3] for f in found]))
        areas.append(np.array([f[3] for f in found]))
    there = golden.directed(elements[0], elements[1], spacing)
    back = golden.directed(elements[1], elements[0], spacing)
    ours = surfel_surface_distances(*masks, spacing)
    total = areas[0].sum() + areas[1].sum()
    for tolerance in (0.0, 1.0, 2.0, 3.0):
        near = areas[0][there <= tolerance].sum() + areas[1][back <= tolerance].sum()
        assert ours.nsd(tolerance) == pytest.approx(near / total, abs=1e-9)
    assert ours.assd() == pytest.approx(((there * areas[0]).sum() + (back * areas[1]).sum()) / total, abs=1e-9)
    assert ours.mean_distances() == pytest.approx(
        ((there * areas[0]).sum() / areas[0].sum(), (back * areas[1]).sum() / areas[1].sum()), abs=1e-9
    )
    assert ours.hausdorff() == pytest.approx(max(there.max(), back.max()), abs=1e-9)


def golden_area(cube: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Area of the surface in one cube of eight voxels, from closed forms for each way to be split.

    Pieces of the rarer side that are not joined by an edge count one by one. a, b and c are the spacings.
    """
    a, b, c = spacing
    inside = {tuple(index) for index in np.argwhere(cube)}
    if len(inside) > 4:
        inside = set(itertools.product((0, 1), repeat=3)) - inside
    pieces: list[set[tuple[int, ...]]] = []
    for corner in inside:
        joined = [p for p in pieces if any(sum(x != y for x, y in zip(corner, q, strict=True)) == 1 for q in p)]
        pieces = [p for p in pieces if p not in joined] + [set.union({corner}, *joined)]

    # A triangle with its corners in the middles of three edges that meet: half of half the parallelogram.
    def oblique(share: float) -> float:
        return share * math.sqrt((b * c) ** 2 + (a * c) ** 2 + (a * b) ** 2)

    def slanted(axis: int) -> float:
        """Rectangle along an axis across half of the other two spacings."""
        other = [s for n, s in enumerate(spacing) if n != axis]
        return spacing[axis] * math.hypot(*other) / 2

    area = 0.0
    for piece in pieces:
        corners = np.array(sorted(piece))
        varying = np.flatnonzero(np.ptp(corners, axis=0))
        if len(piece) == 1:
            area += oblique(1 / 8)
        elif len(piece) == 2:
            area += slanted(int(varying[0]))
        elif len(piece) == 3:
            # An L in a plane: half of the cube's face, and a triangle of 3 / 8 obliquely below it.
            flat = ({0, 1, 2} - set(varying.tolist())).pop()
            area += np.prod([s for n, s in enumerate(spacing) if n != flat]) / 2 + oblique(3 / 8)
        elif len(varying) == 2:
            flat = ({0, 1, 2} - set(varying.tolist())).pop()
            area += np.prod([s for n, s in enumerate(spacing) if n != flat])
        elif any(sum(np.abs(corners - middle).sum(axis=1) == 1) == 3 for middle in corners):
            area += oblique(6 / 8)  # a corner and its three neighbours: a regular hexagon
        else:
            # A path along all three axes: two triangles at its ends, which lie in the plane of the first and the
            # last step with its middle one, and oblique triangles of 4 / 8 between them.
            ends = [p for p in corners if sum(np.abs(corners - p).sum(axis=1) == 1) == 1]
            steps = [int(np.flatnonzero(np.abs(corners - e).sum(axis=1) == 1)[0]) for e in ends]
            for end, near in zip(ends, steps, strict=True):
                axis = int(np.flatnonzero(corners[near] != end)[0])
                area += slanted(axis) / 2
            area += oblique(4 / 8)
    return float(area)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_area_of_each_of_the_256_cubes_follows_from_closed_forms(spacing):
    table = surfel_areas(spacing)
    for code in range(256):
        cube = np.array([code >> bit & 1 for bit in range(8)], dtype=bool).reshape(2, 2, 2)
        assert neighbour_codes(cube).item() == code
        assert table[code] == pytest.approx(golden_area(cube, spacing), abs=1e-12), f"{code:08b}"


def test_the_surface_of_a_box_has_the_area_of_its_cut_corners_and_edges():
    # 4 x 5 x 6 voxels of 2 x 1 x 1 mm. Flat elements: (4-1)(5-1) faces of 2 mm², (4-1)(6-1) of 2, (5-1)(6-1) of 1,
    # each twice; edges four times: 3 along k of 2 * sqrt(2) / 2, 4 along j and 5 along i of 1 * sqrt(5) / 2;
    # corners of sqrt(1 + 4 + 4) / 8.
    box = np.zeros((7, 8, 9), dtype=bool)
    box[1:5, 1:6, 1:7] = True
    faces = 2 * (12 * 2 + 15 * 2 + 20 * 1)
    edges = 4 * (3 * math.sqrt(2) + (4 + 5) * math.sqrt(5) / 2)
    distances = surfel_surface_distances(box, box, (2.0, 1.0, 1.0))
    assert distances.reference_areas is not None
    assert distances.reference_areas.sum() == pytest.approx(faces + edges + 8 * 3 / 8)


def test_hand_computed_distances_of_two_single_voxels():
    reference, prediction = np.zeros((2, 5, 9, 9), dtype=bool)
    reference[1, 2, 3] = True
    prediction[2, 5, 7] = True
    # Steps 1, 3 and 4 of 5, 1 and 1 mm: sqrt(25 + 9 + 16).
    distances = voxel_surface_distances(reference, prediction, (5.0, 1.0, 1.0))
    for value in (distances.hausdorff(), distances.hausdorff_percentile(95), distances.assd()):
        assert value == pytest.approx(math.sqrt(50))
    assert distances.nsd(7.0) == 0.0
    assert distances.nsd(7.1) == 1.0


def test_hd95_is_the_larger_of_two_directed_percentiles_and_not_that_of_both_sets_together():
    there, back = np.zeros(1000), np.concatenate((np.zeros(10), np.full(10, 8.0)))
    distances = SurfaceDistances(there, back)
    assert distances.hausdorff_percentile(95) == 8.0
    assert np.percentile(np.concatenate((there, back)), 95) == 0.0


@pytest.mark.parametrize("measure", [voxel_surface_distances, surfel_surface_distances])
def test_both_empty_is_nan_and_one_empty_is_infinite_with_an_nsd_of_zero(measure):
    empty, full = np.zeros((3, 4, 5), dtype=bool), np.ones((3, 4, 5), dtype=bool)
    assert all(math.isnan(value) for value in numbers(measure(empty, empty, (1.0, 1.0, 1.0))).values())
    for pair in ((empty, full), (full, empty)):
        found = numbers(measure(*pair, (1.0, 1.0, 1.0)))
        assert [found[key] for key in ("hd", "hd95", "assd")] == [math.inf] * 3
        assert [found[f"nsd{t}"] for t in (1, 2, 3)] == [0.0] * 3


def test_a_tolerance_that_is_a_whole_number_of_voxels_is_kept_however_far_it_reaches():
    # 0.1 mm voxels 30 apart are 3 mm apart, also where a k-d tree finds them.
    reference, prediction = np.zeros((2, 1, 1, 60), dtype=bool)
    reference[0, 0, 5] = prediction[0, 0, 35] = True
    assert voxel_surface_distances(reference, prediction, (0.1, 0.1, 0.1)).nsd(30 * 0.1) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nearest_distances_equal_those_over_all_pairs(data):
    axis = st.integers(-30, 30)
    clouds = st.lists(st.tuples(axis, axis, axis), max_size=120).map(lambda p: np.array(p, dtype=int).reshape(-1, 3))
    points, targets = data.draw(clouds), data.draw(clouds)
    spacing = tuple(data.draw(st.sampled_from([0.3, 1.0, 2.7])) for _ in range(3))
    limit = data.draw(st.sampled_from([math.inf, 0.2, 3.0, 12.0]))
    expected = golden.directed(points, targets, spacing)
    assert nearest_distances(points, targets, spacing, limit) == pytest.approx(
        np.where(expected <= limit, expected, math.inf), abs=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_infinite_spacing_keeps_distances_within_one_slice(data):
    axis = st.integers(0, 40)
    clouds = st.lists(st.tuples(st.integers(0, 2), axis, axis), min_size=70, max_size=150)
    points, targets = (np.array(data.draw(clouds)) for _ in range(2))
    limit = data.draw(st.sampled_from([math.inf, 10.0]))
    found = nearest_distances(points, targets, (math.inf, 1.0, 1.5), limit)
    for k in range(3):
        here = points[:, 0] == k
        expected = golden.directed(points[here, 1:], targets[targets[:, 0] == k][:, 1:], (1.0, 1.5))
        assert found[here] == pytest.approx(np.where(expected <= limit, expected, math.inf), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(MASKS, st.data(), st.sampled_from(SPACINGS))
def test_distances_are_symmetric_and_scale_with_the_spacing(mask, data, spacing):
    other = data.draw(hnp.arrays(bool, mask.shape))
    for measure in (voxel_surface_distances, surfel_surface_distances):
        there = numbers(measure(mask, other, spacing))
        assert numbers(measure(other, mask, spacing)) == pytest.approx(there, nan_ok=True)
        doubled = measure(mask, other, tuple(2 * s for s in spacing))
        for key in ("hd", "hd95", "assd"):
            assert numbers(doubled)[key] == pytest.approx(2 * there[key], nan_ok=True)
        assert doubled.nsd(4.0) == pytest.approx(there["nsd2"], nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(MASKS, st.data(), st.permutations(range(3)))
def test_distances_do_not_depend_on_position_or_axis_order(mask, data, order):
    other = data.draw(hnp.arrays(bool, mask.shape))
    spacing = (2.5, 0.7, 1.3)
    moved = [np.pad(m, ((2, 1), (0, 3), (1, 0))).transpose(order) for m in (mask, other)]
    for measure in (voxel_surface_distances, surfel_surface_distances):
        assert numbers(measure(*moved, tuple(spacing[n] for n in order))) == pytest.approx(
            numbers(measure(mask, other, spacing)), nan_ok=True
        )
