"""The pass over the slices gives the numbers of the single metrics, whatever the layout, chunks and threads."""

from __future__ import annotations

import golden_metrics as golden
import numpy as np
import pytest
from scipy import ndimage

from LiverMarginLib.errors import Cancelled
from LiverMarginLib.events import CancelToken
from LiverMarginLib.metrics import suite
from LiverMarginLib.metrics.boundary import Width, count_boundaries
from LiverMarginLib.metrics.overlap import count_overlap
from LiverMarginLib.metrics.slicepass import Extent, Labelled
from LiverMarginLib.metrics.suite import Measures, measure
from LiverMarginLib.metrics.surface import surfel_surface_distances, voxel_surface_distances

PAIRS = golden.difficult_pairs()
SPACING = (3.0, 0.8, 1.1)
WIDTHS = (Width(3), Width(1), Width(2.5, "mm"))


def measured(reference: np.ndarray, prediction: np.ndarray, **options: object) -> Measures:
    masks = Labelled(reference.astype(np.uint8)), {"model": Labelled(prediction.astype(np.uint8))}
    return measure(*masks, SPACING, WIDTHS, **options).measures["model"]


def numbers(m: Measures) -> list[np.ndarray]:
    """Everything in a form that can be compared; distances sorted, because their order means nothing."""
    boundary = [
        score
        for w in m.boundaries
        for score in (m.boundaries[w].boundary_iou(), m.boundaries[w].trimap_iou(), m.boundaries[w].boundary_f())
    ]
    distances = [
        np.sort(d)
        for s in (m.voxel, m.surfel)
        for d in (s.reference_to_prediction, s.prediction_to_reference, s.reference_areas, s.prediction_areas)
        if d is not None
    ]
    return [m.overlap.iou(), *boundary, *distances, np.sort(m.margin.at_reference), np.sort(m.margin.at_prediction)]


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
@pytest.mark.parametrize("name", PAIRS)
def test_the_pass_equals_the_single_metrics(name, chunk, monkeypatch):
    monkeypatch.setattr(suite, "_CHUNK", chunk)
    reference, prediction = PAIRS[name]
    m = measured(reference, prediction)
    for k in range(len(reference)):
        counted = count_overlap(reference[k], prediction[k])
        assert (m.overlap.reference[k], m.overlap.prediction[k], m.overlap.intersection[k]) == (
            counted.reference,
            counted.prediction,
            counted.intersection,
        )
    single = count_boundaries(reference, prediction, WIDTHS, SPACING[1:])
    for w in WIDTHS:
        for score in ("boundary_iou", "trimap_iou", "boundary_precision", "boundary_recall", "boundary_f"):
            ours, theirs = (getattr(counts[w], score)() for counts in (m.boundaries, single))
            assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True), score
    for ours, theirs in (
        (m.voxel, voxel_surface_distances(reference, prediction, SPACING)),
        (m.surfel, surfel_surface_distances(reference, prediction, SPACING)),
    ):
        assert np.sort(ours.reference_to_prediction) == pytest.approx(np.sort(theirs.reference_to_prediction))
        assert np.sort(ours.prediction_to_reference) == pytest.approx(np.sort(theirs.prediction_to_reference))
        for percent in (50, 95):
            assert ours.hausdorff_percentile(percent) == pytest.approx(
                theirs.hausdorff_percentile(percent), nan_ok=True
            )
        assert ours.assd() == pytest.approx(theirs.assd(), nan_ok=True)
        assert ours.nsd(1.2) == pytest.approx(theirs.nsd(1.2), nan_ok=True)


@pytest.mark.parametrize("name", PAIRS)
def test_pieces_are_those_of_eight_connected_labelling(name):
    reference, prediction = PAIRS[name]
    pieces = measured(reference, prediction, region_min_px=4).pieces
    for k, (g, p) in enumerate(zip(reference, prediction, strict=True)):
        labelled = [ndimage.label(plane, np.ones((3, 3))) for plane in (g, p)]
        assert (pieces.reference[k], pieces.prediction[k]) == (labelled[0][1], labelled[1][1])
        sizes = [(labelled[0][0] == n).sum() for n in range(1, labelled[0][1] + 1)]
        assert pieces.reference_regions[k] == sum(size >= 4 for size in sizes)
        assert pieces.missed[k] == sum(not p[labelled[0][0] == n].any() for n in range(1, labelled[0][1] + 1))
        assert pieces.extra[k] == sum(not g[labelled[1][0] == n].any() for n in range(1, labelled[1][1] + 1))


def test_a_missed_and_an_extra_piece_are_found_and_corners_join():
    reference, prediction = np.zeros((2, 1, 12, 12), dtype=bool)
    reference[0, 1:4, 1:4] = True
    reference[0, 4:6, 4:6] = True  # touches the first at a corner: one piece
    reference[0, 9:11, 9:11] = True  # missed
    prediction[0, 2:4, 2:4] = True
    prediction[0, 1, 9] = True  # extra
    pieces = measured(reference, prediction, region_min_px=4).pieces
    assert (pieces.reference[0], pieces.prediction[0], pieces.missed[0], pieces.extra[0]) == (2, 2, 1, 1)
    assert bool(pieces.two_regions[0])
    assert not measured(reference, prediction, region_min_px=5).pieces.two_regions[0]


def test_margin_errors_are_positive_beyond_and_negative_short_of_the_reference():
    reference, prediction = np.zeros((2, 5, 30, 30), dtype=bool)
    reference[:, 5:25, 5:25] = True
    prediction[:, 5:25, 5:28] = True  # three pixels too far along i
    prediction[:, 5:7] = False  # two rows missing along j
    margin = measured(reference, prediction).margin
    at = {tuple(p): d for p, d in zip(margin.reference_points.tolist(), margin.at_reference, strict=True)}
    assert at[2, 16, 24] == pytest.approx(3 * SPACING[2])
    assert at[2, 5, 8] == pytest.approx(-2 * SPACING[1])
    assert at[2, 10, 5] == 0.0
    at = {tuple(p): d for p, d in zip(margin.prediction_points.tolist(), margin.at_prediction, strict=True)}
    assert at[2, 16, 27] == pytest.approx(3 * SPACING[2])
    assert at[2, 7, 10] == pytest.approx(-2 * SPACING[1])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_memory_layout_does_not_matter(order):
    reference, prediction = PAIRS["balls"]
    plain = numbers(measured(reference, prediction))
    strided = [np.ascontiguousarray(m.transpose(order)).transpose(np.argsort(order)) for m in (reference, prediction)]
    flipped = [np.ascontiguousarray(m[:, ::-1])[:, ::-1] for m in strided]
    assert_same(numbers(measured(*flipped)), plain)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int32, np.uint64])
def test_every_label_of_a_multi_label_map_can_be_measured(dtype):
    reference, prediction = PAIRS["balls"]
    top = 1 if dtype is bool else 120
    other = np.random.default_rng(0).integers(2, 7, reference.shape) if dtype is not bool else np.zeros(reference.shape)
    maps = [np.where(m, top, other).astype(dtype) for m in (reference, prediction)]
    result = measure(Labelled(maps[0], (top,)), {"model": Labelled(maps[1], (top,))}, SPACING, WIDTHS)
    assert_same(numbers(result.measures["model"]), numbers(measured(reference, prediction)))


def test_several_labels_make_one_mask():
    reference, prediction = PAIRS["balls"]
    maps = [m * np.random.default_rng(1).integers(3, 6, m.shape).astype(np.uint8) for m in (reference, prediction)]
    labels = (3, 4, 5)
    result = measure(Labelled(maps[0], labels), {"model": Labelled(maps[1], labels)}, SPACING, WIDTHS)
    assert_same(numbers(result.measures["model"]), numbers(measured(reference, prediction)))


def test_each_of_several_predictions_is_measured_as_if_alone():
    names = ["balls", "random, dense", "corner", "empty prediction", "touching every border"]
    reference = PAIRS["balls"][0]
    predictions = {name: PAIRS[name][1] for name in names}
    together = measure(
        Labelled(reference.astype(np.uint8)),
        {name: Labelled(p.astype(np.uint8)) for name, p in predictions.items()},
        SPACING,
        WIDTHS,
    )
    for name, prediction in predictions.items():
        assert_same(numbers(together.measures[name]), numbers(measured(reference, prediction)))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_matter(threads):
    reference, prediction = PAIRS["random, dense"]
    assert_same(numbers(measured(reference, prediction, threads=threads)), numbers(measured(reference, prediction)))


def test_cells_add_up_to_the_slice_counts_and_lie_in_the_thirds_of_the_reference():
    reference, prediction = PAIRS["balls"]
    m = measured(reference, prediction)
    missed = m.overlap.reference - m.overlap.intersection
    assert np.array_equal(m.cells.reference.sum(axis=(1, 2)), m.overlap.reference)
    assert np.array_equal(m.cells.missed.sum(axis=(1, 2)), missed)
    assert np.array_equal(m.cells.extra.sum(axis=(1, 2)), m.overlap.prediction - m.overlap.intersection)
    where = np.argwhere(reference)
    low, high = where.min(axis=0)[1:], where.max(axis=0)[1:] + 1
    cuts = [(a + round((b - a) / 3), a + round(2 * (b - a) / 3)) for a, b in zip(low, high, strict=True)]
    for k, j, i in np.argwhere(reference & ~prediction):
        missed[k] -= 1
        cell = (k, sum(j >= c for c in cuts[0]), sum(i >= c for c in cuts[1]))
        m.cells.missed[cell] -= 1
    assert not m.cells.missed.any()
    assert not missed.any()


def test_the_extent_is_the_bounding_box_of_the_reference():
    reference, prediction = PAIRS["corner"]
    result = measure(Labelled(reference), {"model": Labelled(prediction)}, SPACING, WIDTHS)
    assert result.extent == Extent((0, 3), (0, 6), (0, 7))
    empty = measure(Labelled(np.zeros_like(reference)), {"model": Labelled(prediction)}, SPACING, WIDTHS)
    assert empty.extent is None


def test_progress_reaches_every_slice_and_a_raised_flag_stops_the_work():
    reference, prediction = (Labelled(np.tile(m, (5, 1, 1))) for m in PAIRS["balls"])
    seen: list[tuple[int, int]] = []
    measure(reference, {"model": prediction}, SPACING, WIDTHS, on_progress=lambda *p: seen.append(p))
    assert seen[-1] == (35, 35)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    token = CancelToken()
    with pytest.raises(Cancelled):
        measure(reference, {"model": prediction}, SPACING, WIDTHS, on_progress=lambda *_: token.cancel(), cancel=token)


def test_arrays_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        measure(
            Labelled(np.zeros((2, 3, 4), np.uint8)), {"model": Labelled(np.zeros((2, 3, 5), np.uint8))}, SPACING, WIDTHS
        )


def test_the_inputs_are_not_changed_and_may_be_read_only():
    reference, prediction = (m.astype(np.uint8) for m in PAIRS["random, dense"])
    copies = reference.copy(), prediction.copy()
    for array in (reference, prediction):
        array.setflags(write=False)
    measure(Labelled(reference), {"model": Labelled(prediction)}, SPACING, WIDTHS)
    assert np.array_equal(reference, copies[0])
    assert np.array_equal(prediction, copies[1])
