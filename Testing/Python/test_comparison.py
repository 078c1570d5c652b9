"""Comparing one patient: which voxels meet which, what the tables hold, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import golden_metrics as golden
import numpy as np
import pytest

from LiverMarginLib.comparison import (
    CompareSettings,
    SliceStatus,
    agreement_columns,
    case_masks,
    compare_case,
    compare_readers,
    median_slices,
    patient_columns,
    ranked_slices,
    two_region_slices,
    worst_slices,
)
from LiverMarginLib.errors import Cancelled, GeometryError, InputError
from LiverMarginLib.events import CancelToken, Event, Notice, Progress
from LiverMarginLib.metrics.boundary import Width
from LiverMarginLib.resampling import resample_labels
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import Geometry, LabelMap, axial_view

SPACING = (3.0, 0.8, 1.1)


def grid(shape: tuple[int, int, int], spacing=SPACING, origin=(0.0, 0.0, 0.0)) -> Geometry:
    """A grid whose array order is the axial view: i to the left, j to posterior, k to superior."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag((-spacing[2], -spacing[1], spacing[0]))
    matrix[:3, 3] = origin
    return Geometry(shape, matrix)


def labels(mask: np.ndarray, label: int = 1, geometry: Geometry | None = None, segments=()) -> LabelMap:
    return LabelMap(mask.astype(np.uint8) * label, geometry or grid(mask.shape), segments)


def reordered(label_map: LabelMap, order: tuple[int, ...], flips: tuple[bool, ...]) -> LabelMap:
    """The same labels at the same place in the patient, stored in another axis order."""
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1
    for n, axis in enumerate(order):
        to_source[2 - axis, 2 - n] = -1 if flips[n] else 1
        to_source[2 - axis, 3] = label_map.geometry.shape[axis] - 1 if flips[n] else 0
    shape = tuple(label_map.geometry.shape[a] for a in order)
    geometry = Geometry(shape, label_map.geometry.ijk_to_ras @ to_source)
    return resample_labels(label_map, geometry)


@pytest.fixture
def balls() -> tuple[np.ndarray, np.ndarray]:
    return golden.difficult_pairs()["balls"]


def test_each_slice_holds_the_metrics_of_its_definition(balls):
    reference, prediction = balls
    case = compare_case(labels(reference), {"model": labels(prediction)})
    table = case.predictions["model"].slices
    assert case.official == Width(1)  # 2 % of the diagonal of 18 x 21 pixels is 0.55
    for k, (g, p) in enumerate(zip(reference, prediction, strict=True)):
        expected = {
            "mask_iou": golden.iou(g, p),
            "dice": golden.dice(g, p),
            "precision": golden.precision(g, p),
            "recall": golden.precision(p, g),
            "boundary_iou": golden.boundary_iou(g, p),
            "trimap_iou": golden.trimap_iou(g, p, 1),
            "boundary_f": golden.boundary_f(g, p, 1),
            "boundary_iou_6px": golden.boundary_iou(g, p, 6),
            "trimap_iou_2px": golden.trimap_iou(g, p, 2),
            "boundary_f_2px": golden.boundary_f(g, p, 2),
            "boundary_f_6px": golden.boundary_f(g, p, 6),
            "reference_ml": g.sum() * 3.0 * 0.8 * 1.1 / 1000,
        }
        assert {key: table[key][k] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_the_patient_holds_the_metrics_of_all_its_voxels(balls):
    reference, prediction = balls
    values = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"].values
    surface = golden.surface_numbers(*golden.voxel_distances(reference, prediction, SPACING))
    bands = [np.array([golden.official_boundary(s, 1) for s in m]) for m in (reference, prediction)]
    expected = {
        "mask_iou": golden.iou(reference, prediction),
        "dice": golden.dice(reference, prediction),
        "boundary_iou": golden.iou(*bands),
        "hd_mm": surface["hd"],
        "hd95_mm": surface["hd95"],
        "assd_mm": surface["assd"],
        "nsd_voxel_1mm": surface["nsd1"],
        "nsd_voxel_3mm": surface["nsd3"],
        "prediction_ml": prediction.sum() * 3.0 * 0.8 * 1.1 / 1000,
        "rvd": (prediction.sum() - reference.sum()) / reference.sum(),
        "abs_rvd": abs(prediction.sum() - reference.sum()) / reference.sum(),
    }
    assert {key: values[key].value for key in expected} == pytest.approx(expected)
    assert list(values) == list(patient_columns(CompareSettings()))
    assert values["dice"].n == np.count_nonzero((reference | prediction).any(axis=(1, 2)))
    assert values["hd_mm"].n == len(golden.border(reference, golden.SIX)) + len(golden.border(prediction, golden.SIX))


def test_slices_empty_in_both_masks_are_counted_and_not_averaged():
    reference, prediction = np.zeros((2, 10, 12, 12), dtype=bool)
    reference[2:6, 2:8, 2:8] = True
    prediction[3:7, 2:8, 2:8] = True
    result = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"]
    assert result.slices["status"].tolist() == (
        ["neither"] * 2 + ["missed"] + ["both"] * 3 + ["extra"] + ["neither"] * 3
    )
    assert np.isnan(result.slices["mask_iou"]).tolist() == [True] * 2 + [False] * 5 + [True] * 3
    mean = result.slice_means["mask_iou"]
    # Three slices of 1 and two of 0, not eight of 1 and two of 0.
    assert (mean.value, mean.n, mean.n_undefined) == (pytest.approx(3 / 5), 5, 5)
    values = result.values
    assert (values["slice_sensitivity"].value, values["slice_sensitivity"].n) == (3 / 4, 4)
    assert (values["slice_specificity"].value, values["slice_specificity"].n) == (5 / 6, 6)
    assert (values["slice_precision"].value, values["slice_precision"].n) == (3 / 4, 4)


def test_an_empty_prediction_is_a_counted_failure_and_never_a_distance(balls):
    reference, _ = balls
    result = compare_case(labels(reference), {"model": labels(np.zeros_like(reference))}).predictions["model"]
    assert [result.values[key].value for key in ("hd_mm", "hd95_mm", "assd_mm")] == [math.inf] * 3
    assert result.values["nsd_surfel_2mm"].value == 0.0
    assert result.values["dice"].value == 0.0
    assert result.values["rvd"].value == -1.0
    assert result.slice_means["boundary_iou"].value == 0.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_axis_orders_of_the_files_do_not_matter(order, balls):
    reference, prediction = (labels(m) for m in balls)
    plain = compare_case(reference, {"model": prediction}).predictions["model"]
    for flips in itertools.product((False, True), repeat=3):
        notices: list[Event] = []
        stored = reordered(reference, order, flips)
        other = reordered(prediction, order[::-1], flips[::-1])
        found = compare_case(stored, {"model": other}, on_event=notices.append).predictions["model"]
        assert not [n for n in notices if isinstance(n, Notice)]
        for key, column in plain.slices.columns.items():
            if column.dtype.kind == "f":
                assert found.slices[key] == pytest.approx(column, nan_ok=True), key
            else:
                assert np.array_equal(found.slices[key], column), key
        assert {k: v.value for k, v in found.values.items()} == pytest.approx(
            {k: v.value for k, v in plain.values.items()}, nan_ok=True
        )
        assert found.where.keys() == plain.where.keys()
        assert [r.missed_ml for r in found.where.values()] == pytest.approx([r.missed_ml for r in plain.where.values()])


def test_slices_run_from_inferior_to_superior_at_their_place_in_the_patient(balls):
    reference, prediction = (labels(m, geometry=grid(m.shape, origin=(10.0, 20.0, -500.0))) for m in balls)
    for stored in (reference, reordered(reference, (0, 1, 2), (True, False, True))):
        table = compare_case(stored, {"model": prediction}).predictions["model"].slices
        assert table["index"].tolist() == list(range(7))
        assert table["position_mm"] == pytest.approx(-500.0 + 3.0 * np.arange(7))


def test_a_prediction_on_another_grid_is_resampled_and_that_is_said(balls):
    reference, prediction = balls
    half = grid((7, 9, 11), (3.0, 1.6, 2.2), (-0.55, -0.4, 0.0))
    coarse = resample_labels(labels(prediction), half)
    notices: list[Event] = []
    case = compare_case(labels(reference), {"fine": labels(prediction), "coarse": coarse}, on_event=notices.append)
    said = [n.message for n in notices if isinstance(n, Notice)]
    assert len(said) == 1
    assert "coarse" in said[0]
    assert "resampled" in said[0]
    assert case.predictions["coarse"].notes == tuple(said)
    assert case.predictions["fine"].notes == ()
    back = resample_labels(coarse, grid(reference.shape)).mask(1)
    assert case.predictions["coarse"].values["dice"].value == pytest.approx(golden.dice(reference, back))


def test_the_reference_of_another_patient_is_refused(balls):
    reference, prediction = balls
    elsewhere = labels(prediction, geometry=grid(prediction.shape, origin=(0.0, 0.0, 18.0)))
    with pytest.raises(GeometryError, match="same patient"):
        compare_case(labels(reference), {"model": elsewhere})


def test_a_slab_inside_the_reference_is_compared(balls):
    reference, prediction = balls
    slab = labels(prediction[2:5], geometry=grid((3, 18, 21), origin=(0.0, 0.0, 6.0)))
    case = compare_case(labels(reference), {"slab": slab})
    only = np.zeros_like(prediction)
    only[2:5] = prediction[2:5]
    assert case.predictions["slab"].values["dice"].value == pytest.approx(golden.dice(reference, only))
    resampled, beyond = case.predictions["slab"].notes
    assert "resampled" in resampled
    assert beyond == "The reference reaches beyond the grid of prediction 'slab'; what lies there counts as missed."


@pytest.mark.parametrize("shape", [(1, 30, 30), (12, 1, 30), (12, 30, 1), (1, 1, 1)])
def test_images_of_one_slice_row_or_voxel_are_compared(shape):
    reference = np.ones(shape, dtype=bool)
    prediction = reference.copy()
    prediction[..., : shape[2] // 2] = False
    result = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"]
    assert result.values["dice"].value == pytest.approx(golden.dice(reference, prediction))
    expected = golden.surface_numbers(*golden.voxel_distances(reference, prediction, SPACING))
    assert result.values["hd_mm"].value == pytest.approx(expected["hd"])
    assert result.slices["boundary_f"][0] == pytest.approx(golden.boundary_f(reference[0], prediction[0], 1))


def test_the_label_of_the_prediction_may_differ_and_then_it_is_said(balls):
    reference, prediction = balls
    expected = golden.dice(reference, prediction)

    def dice(other: LabelMap, reference_segments=(), **options: object) -> tuple[float, tuple[str, ...]]:
        result = compare_case(labels(reference, 5, segments=reference_segments), {"model": other}, 5, **options)
        found = result.predictions["model"]
        return found.values["dice"].value, found.notes

    noise = np.where(prediction, 0, np.random.default_rng(0).integers(0, 2, prediction.shape) * 9)
    crowded = LabelMap((labels(prediction, 3).array + noise).astype(np.uint8), grid(prediction.shape))
    # The caller knows.
    assert dice(crowded, prediction_label=3) == (pytest.approx(expected), ())
    assert dice(crowded, prediction_label={"model": 3}) == (pytest.approx(expected), ())
    # The same value.
    same = LabelMap((labels(prediction, 5).array + noise).astype(np.uint8), grid(prediction.shape))
    assert dice(same) == (pytest.approx(expected), ())
    # The only value there is.
    value, notes = dice(labels(prediction, 2))
    assert value == pytest.approx(expected)
    assert notes == ("Label 2 of prediction 'model' is compared with label 5 of the reference.",)
    # The same meaning wins over the same value.
    meant = Segment(3, "Liver", LIVER.colour, LIVER.terminology)
    crowded_five = np.where(crowded.array == 9, 5, crowded.array).astype(np.uint8)
    named = LabelMap(crowded_five, crowded.geometry, (meant, replace(LIVER_MASS, label=5)))
    value, notes = dice(named, reference_segments=(replace(LIVER, label=5),))
    assert value == pytest.approx(expected)
    assert len(notes) == 1
    # Nothing decides.
    with pytest.raises(InputError, match="say which label of the prediction"):
        dice(crowded)


def test_several_labels_make_one_organ(balls):
    reference, prediction = balls
    tumour = np.zeros_like(reference)
    tumour[3, 6:9, 7:10] = True
    with_tumour = LabelMap(np.where(tumour & reference, 2, reference).astype(np.uint8), grid(reference.shape))
    case = compare_case(with_tumour, {"model": labels(prediction)}, (1, 2), prediction_label=1)
    assert case.labels == (1, 2)
    assert case.predictions["model"].values["dice"].value == pytest.approx(golden.dice(reference, prediction))


@pytest.mark.parametrize(
    ("array", "label", "sentence"),
    [(np.ones((3, 4, 5)), 4, "no voxel of label 4; it has 1"), (np.zeros((3, 4, 5)), 1, "reference is empty")],
)
def test_a_label_that_the_reference_lacks_is_refused_with_those_it_has(array, label, sentence):
    reference = LabelMap(array.astype(np.uint8), grid((3, 4, 5)))
    with pytest.raises(InputError, match=sentence):
        compare_case(reference, {"model": labels(np.ones((3, 4, 5)))}, label)


@pytest.mark.parametrize("label", [0, (), (1, 0)])
def test_background_is_no_label(label, balls):
    with pytest.raises(InputError, match="background"):
        compare_case(labels(balls[0]), {"model": labels(balls[1])}, label)


def test_nothing_to_compare_is_refused(balls):
    with pytest.raises(InputError, match="at least one prediction"):
        compare_case(labels(balls[0]), {})


def test_settings_that_make_no_sense_are_refused():
    for wrong in (
        {"boundary_fraction": 0.0},
        {"nsd_tolerances_mm": (-1.0,)},
        {"nsd_tolerances_mm": (float("nan"),)},
        {"two_region_min_px": 0},
    ):
        with pytest.raises(InputError):
            CompareSettings(**wrong)


def test_widths_in_millimetres_get_columns_of_their_own(balls):
    settings = CompareSettings(widths=(Width(2.4, "mm"),), nsd_tolerances_mm=(2.5,))
    reference, prediction = balls
    result = compare_case(labels(reference), {"model": labels(prediction)}, settings=settings).predictions["model"]
    expected = [golden.boundary_f(g, p, 2.4, SPACING[1:]) for g, p in zip(reference, prediction, strict=True)]
    assert result.slices["boundary_f_2.4mm"] == pytest.approx(expected, nan_ok=True)
    assert "nsd_voxel_2.5mm" in result.values
    column = patient_columns(settings)["boundary_iou_2.4mm"]
    assert column.title == "Boundary IoU (d = 2.4 mm)"


def test_margin_columns_say_how_far_the_prediction_reaches_or_falls_short():
    reference, prediction = np.zeros((2, 9, 30, 30), dtype=bool)
    reference[1:8, 5:25, 5:25] = True
    prediction[1:8, 7:25, 5:28] = True  # two rows short, three columns beyond
    slices = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"].slices
    assert slices["margin_beyond_mm"][4] == pytest.approx(3 * 1.1)
    assert slices["margin_short_mm"][4] == pytest.approx(2 * 0.8)
    there, _ = golden.voxel_distances(reference, prediction, SPACING)
    points = golden.border(reference, golden.SIX)
    here = points[:, 0] == 4
    assert slices["margin_abs_mm"][4] == pytest.approx(there[here].mean())
    assert slices["margin_error_share"][4] == pytest.approx((there[here] > 0).mean())
    sign = np.where([prediction[tuple(p)] for p in points], 1, -1)
    wrong = here & (there > 0)
    assert slices["margin_signed_mm"][4] == pytest.approx((sign * there)[wrong].mean())
    assert np.isnan(slices["margin_abs_mm"][0])


def test_the_hd95_of_a_slice_is_that_of_its_surface_voxels(balls):
    reference, prediction = balls
    prediction = prediction.copy()
    prediction[: len(prediction) // 2] = False  # slices that are missed altogether
    slices = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"].slices
    directed = (
        (golden.border(reference, golden.SIX), golden.voxel_distances(reference, prediction, SPACING)[0]),
        (golden.border(prediction, golden.SIX), golden.voxel_distances(reference, prediction, SPACING)[1]),
    )
    for k, found in enumerate(slices["margin_hd95_mm"]):
        here = [distances[points[:, 0] == k] for points, distances in directed]
        expected = max((np.percentile(d, 95) for d in here if len(d)), default=np.nan)
        assert found == pytest.approx(expected, nan_ok=True)


def test_the_hd95_of_slices_is_infinite_beside_an_empty_prediction():
    reference = np.zeros((4, 9, 9), dtype=bool)
    reference[1:3, 2:7, 2:7] = True
    slices = compare_case(labels(reference), {"m": labels(np.zeros_like(reference))}).predictions["m"].slices
    assert slices["margin_hd95_mm"][1:3].tolist() == [np.inf, np.inf] and np.isnan(slices["margin_hd95_mm"][0])


def test_errors_are_placed_in_the_thirds_of_the_liver():
    reference = np.zeros((12, 20, 20), dtype=bool)
    reference[0:9, 2:14, 2:14] = True
    prediction = reference.copy()
    prediction[6:9, 2:6, 2:6] = False  # of the dome, anterior, on the right lobe's side: 3 x 4 x 4 voxels
    prediction[0:3, 10:16, 6:10] = True  # too much behind the middle of the lower tip: 3 x 2 x 4 voxels outside
    where = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"].where
    voxel_ml = np.prod(SPACING) / 1000
    missed = {name: round(region.missed_ml / voxel_ml) for name, region in where.items()}
    extra = {name: round(region.extra_ml / voxel_ml) for name, region in where.items()}
    nothing = dict.fromkeys(where, 0)
    assert missed == nothing | {"dome": 48, "right lobe side": 48}
    assert extra == nothing | {"lower tip": 24, "centre": 24, "hilum side": 24}
    assert where["dome"].error_share == pytest.approx(48 / 72)
    dome = reference[6:9], prediction[6:9]
    assert where["dome"].dice == pytest.approx(golden.dice(*dome))
    assert where["dome"].reference_ml == pytest.approx(dome[0].sum() * voxel_ml)
    assert where["middle"].margin_abs_mm == 0.0 or where["middle"].n > 0


def test_slices_are_ranked_worst_first_and_by_error_among_equals():
    reference, prediction = np.zeros((2, 8, 16, 16), dtype=bool)
    reference[1:7, 2:12, 2:12] = True
    prediction[1:7, 2:12, 2:12] = True
    prediction[2] = False  # missed, 100 pixels
    prediction[0, 3:5, 3:5] = True  # extra, 4 pixels
    prediction[4, 2:6] = False  # half right
    result = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"]
    ranked = ranked_slices(result, "mask_iou")
    assert [r.index for r in ranked[:3]] == [2, 0, 4]
    assert [r.status for r in ranked[:3]] == [SliceStatus.MISSED, SliceStatus.EXTRA, SliceStatus.BOTH]
    assert [r.error_px for r in ranked[:3]] == [100, 4, 40]
    assert 7 not in {r.index for r in ranked}
    assert worst_slices(result, 2, "mask_iou") == ranked[:2]
    assert median_slices(result, 3, "mask_iou") == ranked[2:5]
    assert len(median_slices(result, 99)) == len(ranked)
    with pytest.raises(InputError, match="cannot be ranked by colour"):
        ranked_slices(result, "colour")


def test_two_region_slices_are_those_in_which_the_reference_falls_apart():
    reference = np.zeros((5, 20, 20), dtype=bool)
    reference[:, 2:8, 2:8] = True
    reference[2:4, 12:17, 12:17] = True
    reference[4, 12:14, 12:14] = True  # 4 pixels are no region
    prediction = reference.copy()
    prediction[3, 12:17, 12:17] = False
    result = compare_case(labels(reference), {"model": labels(prediction)}).predictions["model"]
    assert [r.index for r in two_region_slices(result)] == [3, 2]
    assert result.slices["pieces_reference"].tolist() == [1, 1, 2, 2, 2]
    assert result.slices["pieces_missed"].tolist() == [0, 0, 0, 1, 0]


def test_two_readers_agree_the_same_whoever_comes_first(balls):
    first, second = (labels(m) for m in balls)
    there = next(iter(compare_readers(first, second).predictions.values()))
    back = next(iter(compare_readers(second, first).predictions.values()))
    symmetric = agreement_columns(CompareSettings())
    assert {"dice", "boundary_iou", "boundary_f_2px", "hd95_mm", "assd_mm", "nsd_surfel_1mm"} <= set(symmetric)
    assert not {"precision", "recall", "trimap_iou", "rvd"} & set(symmetric)
    for key in symmetric:
        assert there.values[key].value == pytest.approx(back.values[key].value), key
    assert there.model == "reader 2 / reader 1"


def test_the_masks_for_drawing_are_those_that_were_compared(balls):
    reference, prediction = balls
    stored = reordered(labels(reference, 5), (2, 0, 1), (True, False, True))
    other = labels(prediction, 2)
    case = compare_case(stored, {"model": other}, 5)
    drawn, predictions = case_masks(case, stored, {"model": other})
    assert np.array_equal(drawn, reference)
    assert np.array_equal(predictions["model"], prediction)
    assert case.geometry.agrees_with(axial_view(stored.geometry).geometry)


def test_progress_is_told_and_a_cancelled_comparison_stops(balls):
    reference, prediction = (labels(m) for m in balls)
    events: list[Event] = []
    compare_case(reference, {"model": prediction}, case="case 7", on_event=events.append)
    assert [e for e in events if isinstance(e, Progress)][-1] == Progress(7, 7, "compare", "case 7")
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        compare_case(reference, {"model": prediction}, cancel=token)


@pytest.mark.realdata
def test_the_flipped_label_file_of_a_real_ct_meets_itself_on_the_dicom_grid(real_data):
    sitk = pytest.importorskip("SimpleITK", reason="reads the real volumes")
    folder = real_data / "ct_portal_slab"

    def geometry(image) -> Geometry:
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
        matrix[:3, 3] = image.GetOrigin()
        return Geometry(image.GetSize()[::-1], np.diag((-1.0, -1.0, 1.0, 1.0)) @ matrix)

    image = sitk.ReadImage(str(folder / "labels.nii.gz"))
    stored = LabelMap(sitk.GetArrayFromImage(image).astype(np.uint8), geometry(image))
    series = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "dicom")))
    on_dicom = resample_labels(stored, geometry(series))
    assert not np.array_equal(stored.array, on_dicom.array)
    result = compare_case(stored, {"same": on_dicom}, 5).predictions["same"]
    assert result.notes == ()
    assert {result.values[key].value for key in ("mask_iou", "boundary_iou", "boundary_f", "nsd_surfel_1mm")} == {1.0}
    assert result.values["hd_mm"].value == 0.0
    assert result.values["reference_ml"].value == pytest.approx(699, abs=1)
