"""The report's figures: colours that are there, errors at the right place of the map, text that stays text."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from test_report import GRID, MODELS, SHAPE, image, label_maps, made

from LiverMarginLib.comparison import compare_case, summarise
from LiverMarginLib.errors import Cancelled
from LiverMarginLib.events import CancelToken
from LiverMarginLib.metrics.suite import MarginErrors
from LiverMarginLib.report.colours import REFERENCE, model_styles
from LiverMarginLib.report.contours import contour_figure, outline
from LiverMarginLib.report.curves import curves_figure
from LiverMarginLib.report.embed import figure_svg
from LiverMarginLib.report.gallery import _path
from LiverMarginLib.report.margin_colours import NAME, STEPS
from LiverMarginLib.report.margin_histogram import count_errors, histogram_figure
from LiverMarginLib.report.margin_map import ANGLES, MarginMap, colour_limit, margin_map_figure, unroll
from LiverMarginLib.report.paper import table_figure, write_pdf
from LiverMarginLib.report.pictures import slice_stack
from LiverMarginLib.report.spread import spread_figure
from LiverMarginLib.volume import Geometry, LabelMap


def pixels(figure: Figure) -> np.ndarray:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80)
    return np.asarray(Image.open(stream).convert("RGB")).astype(float) / 255


def has_colour(picture: np.ndarray, colour: str, least: int = 10) -> bool:
    return int((np.abs(picture - to_rgb(colour)).max(axis=2) < 0.06).sum()) >= least


@pytest.fixture(scope="module")
def study():
    return made(3)


@pytest.fixture(scope="module")
def styles():
    return model_styles(MODELS)


def ring(radius_mm: float = 60.0, slices: int = 5, errors=lambda angle, k: 0.0) -> tuple[MarginErrors, Geometry]:
    """Surface voxels on a circle in each slice; `errors` of the angle in turns from posterior over right, and k."""
    geometry = Geometry((slices, 200, 200), np.array([[-1, 0, 0, 100], [0, -1, 0, 100], [0, 0, 3, 50], [0, 0, 0, 1.0]]))
    turns = np.arange(720) / 720
    points, values = [], []
    for k in range(slices):
        for turn in turns:
            # Columns grow to the patient's left and rows to posterior.
            j = round(100 + radius_mm * np.cos(2 * np.pi * turn))
            i = round(100 - radius_mm * np.sin(2 * np.pi * turn))
            points.append((k, j, i))
            values.append(errors(turn, k))
    reference = np.array(points, dtype=np.int32)
    none = np.zeros((0, 3), dtype=np.int32)
    return MarginErrors(reference, np.array(values, dtype=float), none, np.zeros(0)), geometry


@pytest.mark.parametrize(("turn", "side"), [(0.25, "right"), (0.5, "anterior"), (0.75, "left")])
def test_an_error_on_a_side_of_the_patient_lies_at_that_side_of_the_map(turn, side):
    margin, geometry = ring(errors=lambda angle, k: 5.0 if abs(angle - turn) < 0.03 and k == 3 else 0.0)
    found = unroll(margin, geometry).error_mm
    k, angle = np.unravel_index(np.argmax(found), found.shape)
    assert k == 3
    assert abs(angle + 0.5 - turn * ANGLES) < 0.04 * ANGLES, side
    assert found.max() == pytest.approx(5)


def test_the_map_has_the_heights_of_the_outer_faces():
    margin, geometry = ring(slices=5)
    found = unroll(margin, geometry)
    assert (found.bottom_mm, found.top_mm) == pytest.approx((48.5, 63.5))


def test_small_outlines_are_bridged_and_empty_slices_stay_empty():
    margin, geometry = ring(radius_mm=4)
    keep = margin.reference_points[:, 0] != 2
    holed = MarginErrors(margin.reference_points[keep], margin.at_reference[keep], *(margin.prediction_points,) * 2)
    found = unroll(holed, geometry).error_mm
    assert np.isnan(found[2]).all()
    assert np.isfinite(np.delete(found, 2, axis=0)).all()


def test_an_empty_prediction_gives_a_map_of_the_strongest_colour():
    margin, geometry = ring(errors=lambda angle, k: -np.inf)
    found = unroll(margin, geometry)
    assert np.isneginf(found.error_mm).all()
    assert colour_limit([found]) == 3
    picture = pixels(margin_map_figure({"m": found}, 3))
    assert has_colour(picture, "#7f3b08", 2000)  # the lowest colour of PuOr


def test_short_is_orange_and_beyond_is_purple():
    for sign, colour in ((-1, "#7f3b08"), (1, "#2d004b")):
        found = MarginMap(np.full((4, ANGLES), sign * 9, dtype=np.float32), 0, 8)
        assert has_colour(pixels(margin_map_figure({"m": found}, 5)), colour, 2000)


def test_the_colours_for_views_without_matplotlib_are_those_of_the_report():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    places = np.linspace(0, 1, len(STEPS))
    shown = [to_hex(colormaps[NAME].resampled(len(STEPS))(place)) for place in places]
    assert shown == list(STEPS)


def test_the_colour_limit_is_common_and_bounded():
    def of(size):
        return MarginMap(np.full((4, ANGLES), size, dtype=np.float32), 0, 8)

    assert colour_limit([of(7.2), of(-1)]) == 8
    assert colour_limit([of(0.1)]) == 3
    assert colour_limit([of(400)]) == 20
    assert colour_limit([]) == 3


def test_the_histogram_counts_every_voxel_once():
    error = np.array([0, 0, 0.5, -0.5, -25, 21, 1.0, -np.inf])
    none = np.zeros((0, 3), dtype=np.int32)
    counts = count_errors(MarginErrors(np.zeros((8, 3), dtype=np.int32), error, none, np.zeros(0)))
    assert counts.n == 8
    assert counts.signed.sum() == 6
    assert (counts.signed[0], counts.signed[-1]) == (2, 1)
    assert (counts.within[0], counts.within[2], counts.within[4], counts.within[-1]) == (2, 4, 5, 5)
    assert (counts + counts).n == 16


def test_curves_show_all_models_the_reference_and_the_two_region_slices(study, styles):
    picture = pixels(curves_figure(study[0].cases[0], styles))
    for colour in (REFERENCE, *(style.colour for style in styles.values()), "#f3e6c4"):
        assert has_colour(picture, colour), colour


def test_curves_mark_missed_slices_in_the_legend_only_where_there_are_some(study, styles):
    def words(case):
        return {t.get_text() for legend in curves_figure(case, styles).legends for t in legend.get_texts()}

    assert "missed slice" in words(study[0].cases[0])
    reference, _ = label_maps(0)
    same = compare_case(reference, dict.fromkeys(MODELS, reference))
    assert "missed slice" not in words(same)


def test_box_plots_show_all_models(study, styles):
    picture = pixels(spread_figure(study[0], styles))
    assert all(has_colour(picture, style.colour, 30) for style in styles.values())
    assert len(spread_figure(summarise(study[0].cases[:1]), styles).get_axes()) == 4


def test_histograms_show_all_models(study, styles):
    histograms = next(iter(study[1].values())).histograms
    picture = pixels(histogram_figure(histograms, styles))
    assert all(has_colour(picture, style.colour) for style in styles.values())


def test_contours_are_drawn_in_their_colours_with_the_patients_sides():
    reference, predictions = label_maps(0)
    case = compare_case(reference, predictions)
    figure = contour_figure(slice_stack(case, reference, predictions, image(0)), [(1, "a"), (5, "b")])
    picture = pixels(figure)
    for colour in (REFERENCE, *(style.colour for style in model_styles(MODELS).values())):
        assert has_colour(picture, colour), colour
    assert [t.get_text() for t in figure.axes[0].texts] == ["R", "L"]


def test_models_differ_by_more_than_their_colour():
    styles = model_styles(["U-Net", "Detectron2", "other", "fourth"])
    assert len({s.dashes for s in styles.values()}) == 4
    assert styles["U-Net"].colour == "#e02f2f"
    assert styles["Detectron2"].colour == "#25a244"


def test_an_outline_encloses_the_masks_pixels():
    """The outline of a rectangle of 4 x 3 pixels runs through the middles between pixels: half a pixel outside of the
    centres, with cut corners, so its area is 4 * 3 - 4 / 8."""
    mask = np.zeros((8, 9), dtype=bool)
    mask[2:5, 3:7] = True
    (line,) = outline(mask)
    x, y = line.T
    assert (x.min(), x.max(), y.min(), y.max()) == (2.5, 6.5, 1.5, 4.5)
    assert abs(np.sum(x[1:] * y[:-1] - x[:-1] * y[1:])) / 2 == pytest.approx(11.5)
    assert outline(np.zeros((3, 3), dtype=bool)) == ()


def test_a_path_in_half_pixels_is_exact_and_short():
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:35, 4:44] = True
    text = _path(outline(mask))
    assert text.startswith("M")
    assert text.endswith("z")
    start, _, rest = text[1:-1].partition("l")
    points = np.cumsum([np.array(p.split(), dtype=int) for p in (start, *_pairs(rest))], axis=0) / 2
    assert points[:, 0].min() == 4
    assert points[:, 0].max() == 44
    assert (points[:, 1].min(), points[:, 1].max()) == (5, 35)
    assert len(points) <= 10


def _pairs(text: str) -> list[str]:
    numbers = text.split()
    return [" ".join(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def test_drawings_are_the_same_every_time_and_share_no_identifier(study, styles):
    case = study[0].cases[0]
    first = figure_svg(curves_figure(case, styles), "a", "x")
    assert first == figure_svg(curves_figure(case, styles), "a", "x")
    assert 'id="a-' in first
    other = figure_svg(curves_figure(case, styles), "b", "x")
    assert not set(_identifiers(first)) & set(_identifiers(other))


def _identifiers(text: str) -> list[str]:
    return [part.partition('"')[0] for part in text.split('id="')[1:]]


def test_figures_are_drawn_in_several_threads_at_once_as_in_one(study, styles):
    case = study[0].cases[0]
    alone = figure_svg(curves_figure(case, styles), "a", "x")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(figure_svg(curves_figure(case, styles), "a", "x")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3


def test_names_with_dollars_and_underscores_are_drawn_as_they_are():
    names = ("$x_1$", "_hidden")
    reference, predictions = label_maps(0, names)
    case = compare_case(reference, predictions, case="$\\frac{1}$")
    figure = curves_figure(case, model_styles(names), case.case)
    pixels(figure)
    assert {"$x_1$", "_hidden"} <= {t.get_text() for t in figure.legends[0].get_texts()}


def test_an_mr_without_hounsfield_units_gets_a_window_of_its_own():
    reference, predictions = label_maps(0)
    case = compare_case(reference, predictions)
    stack = slice_stack(case, reference, predictions, None)
    assert stack.grey_window() == (0, 1)
    assert (stack.pictures([3])[0].grey == 64).all()
    assert stack.pictures([]) == []


def test_the_stack_draws_the_label_that_was_compared():
    reference, predictions = label_maps(0)
    other = LabelMap(predictions["U-Net"].array * 7 + (reference.array == 0) * 2, GRID)
    case = compare_case(reference, {"U-Net": other}, prediction_label=7)
    stack = slice_stack(case, reference, {"U-Net": other}, None)
    assert stack.predictions["U-Net"].shape == SHAPE
    assert np.array_equal(stack.predictions["U-Net"], other.array == 7)


def test_the_pdf_has_a_page_for_the_table_and_for_each_figure(study, tmp_path):
    """Table, box plots, histograms; then curves, gallery and map of each of three patients."""
    path = write_pdf(study[0], study[1].get, tmp_path / "report.pdf")
    content = path.read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page ") == 3 + 3 * 3
    assert b"CreationDate" not in content


def test_the_table_of_the_pdf_shows_the_means_and_what_is_best(study):
    figure = table_figure(study[0], "$title$")
    cells = {c.get_text().get_text(): c for c in figure.axes[0].tables[0].get_celld().values()}
    for name, model in study[0].models.items():
        mean = model.metrics["boundary_iou"].patient_mean
        cell = cells[f"{mean.value:.3f}\n{mean.low:.3f} to {mean.high:.3f}"]
        assert (cell.get_text().get_fontweight() == "bold") == (name == "Detectron2")


def test_a_cancelled_pdf_is_not_written(study, tmp_path):
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        write_pdf(study[0], study[1].get, tmp_path / "report.pdf", cancel=token)
    assert list(tmp_path.iterdir()) == []
