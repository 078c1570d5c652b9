"""The report as a page: what is in it, what must not be in it, and that a resumed run makes the same one."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from LiverMarginLib.comparison import FailedCase, Study, compare_case, patient_columns, summarise
from LiverMarginLib.comparison.batch import without_margin
from LiverMarginLib.errors import Cancelled, InputError, ResourceError
from LiverMarginLib.events import CancelToken, Notice
from LiverMarginLib.io.labelmap_files import write_nifti
from LiverMarginLib.jobs import run
from LiverMarginLib.jobs.compare import CompareJob
from LiverMarginLib.metrics.definitions import DEFINITIONS
from LiverMarginLib.report.facts import MOST_SHOWN, errors_by_region, two_regions
from LiverMarginLib.report.fragments import make_fragment, read_fragment, write_fragment
from LiverMarginLib.report.markup import Html, tag
from LiverMarginLib.report.page import report_html, write_report
from LiverMarginLib.report.pictures import slice_stack
from LiverMarginLib.report.provenance import model_provenance, without_paths
from LiverMarginLib.report.words import summary_sentences
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume

MODELS = ("Detectron2", "U-Net")
SHAPE = (8, 40, 48)
GRID = Geometry(SHAPE, np.diag((-2.0, -2.0, 4.0, 1.0)))


def masks(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reference with a bridge that two slices lack, a good prediction, and one that misses a piece and a slice."""
    size = 8 + seed % 5
    reference = np.zeros(SHAPE, dtype=np.uint8)
    reference[1:7, 8 : 8 + size, 6:40] = 1
    reference[2:4, :, 18:26] = 0
    good = reference.copy()
    good[:, :, 39] = 0
    bad = np.roll(reference, 2 + seed % 3, axis=1)
    bad[2:4, :, 26:] = 0
    bad[6] = 0
    return reference, good, bad


def label_maps(seed: int, names=MODELS, provenance=None) -> tuple[LabelMap, dict[str, LabelMap]]:
    reference, *predictions = masks(seed)
    return LabelMap(reference, GRID), {
        name: LabelMap(array, GRID, (), provenance or {}) for name, array in zip(names, predictions, strict=True)
    }


def image(seed: int) -> Volume:
    voxels = np.random.default_rng(seed).normal(50, 20, SHAPE).astype(np.int16)
    return Volume(voxels, GRID, Modality.CT, IntensityKind.HU)


def made(n: int, names=MODELS, cases=None, failures=(), provenance=None, empty: int | None = None):
    """A study of `n` patients and its fragments."""
    compared, fragments = [], {}
    for seed in range(n):
        reference, predictions = label_maps(seed, names, provenance)
        if seed == empty:
            predictions[names[1]] = LabelMap(np.zeros(SHAPE, dtype=np.uint8), GRID)
        name = cases[seed] if cases else f"patient {seed}"
        case = compare_case(reference, predictions, case=name)
        fragments[name] = make_fragment(case, slice_stack(case, reference, predictions, image(seed)))
        compared.append(without_margin(case))
    return summarise(compared, failures), fragments


class Page(HTMLParser):
    """Elements with their attributes, texts, and whether every one that is opened is closed in its turn."""

    VOID = frozenset({"br", "img", "input", "meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


@pytest.fixture(scope="module")
def study() -> tuple[Study, dict]:
    return made(3, failures=(FailedCase("patient 9", "It is empty."),))


@pytest.fixture(scope="module")
def html(study) -> str:
    return report_html(study[0], study[1].get)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_model_and_every_patient_is_in_the_report(page, study):
    for name in (*MODELS, *(case.case for case in study[0].cases)):
        assert name in page.text
    assert "patient 9" in page.text
    assert "It is empty." in page.text


def test_the_page_needs_no_other_file_and_no_network(page, html):
    assert not page.all("link")
    assert not [a for a in page.all("script") if "src" in a]
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href"):
            if attributes.get(key):
                assert attributes[key].startswith(("#", "data:image/"))
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_anchor_leads_somewhere_and_no_identifier_occurs_twice(page):
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        for key in ("href", "xlink:href"):
            if (attributes.get(key) or "").startswith("#"):
                assert attributes[key][1:] in identifiers


def test_every_picture_has_a_description(page, study):
    assert all(a.get("alt") for a in page.all("img"))
    drawings = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert all(a.get("role") == "img" and a.get("aria-label") for a in drawings)
    gallery = [a for a in drawings if "outlines" in a["aria-label"]]
    assert len(gallery) == sum(len(fragment.gallery) for fragment in study[1].values())


def test_the_main_table_shows_what_the_study_says(page, study):
    for model in study[0].models.values():
        for key in ("mask_iou", "trimap_iou", "boundary_f", "boundary_iou", "dice"):
            metric = model.metrics[key]
            for estimate in (metric.patient_mean, metric.slice_mean, metric.pooled):
                assert f"{estimate.value:.3f}" in page.text
                assert f"{estimate.low:.3f} to {estimate.high:.3f}" in page.text
        assert f"{model.metrics['hd95_mm'].patient_mean.value:.2f}" in page.text
        assert f"{model.metrics['mask_iou'].slice_mean.n} slices" in page.text.replace("\u00a0", " ")
    assert "3 patients" in page.text.replace("\u00a0", " ")


def test_the_best_is_marked_by_a_sign_and_a_word(page):
    marks = [a for a in page.all("span") if a.get("class") == "best"]
    assert marks
    assert all("best" in a["aria-label"] for a in marks)


def test_every_definition_is_there_with_its_source(page):
    for definition in DEFINITIONS.values():
        assert definition.name in page.text
        assert definition.text in page.text
        assert definition.source in page.text


def test_d_in_pixels_is_said_in_the_headings(page):
    assert "Boundary IoU (d = 1 px)" in page.text.replace("\u00a0", " ")


HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>$\\frac{1}$"


def test_names_are_text_wherever_they_appear():
    names = (HOSTILE, "_hidden</title><b>")
    study, fragments = made(2, names, cases=[f"{HOSTILE}1", f"{HOSTILE}2"], failures=(FailedCase(HOSTILE, HOSTILE),))
    text = report_html(study, fragments.get, title=HOSTILE)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("b") or all("onerror" not in a for _, a in page.elements)
    assert not [a for a in page.all("img") if a.get("src") == "x"]
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert "<script>alert" not in text
    assert HOSTILE in page.text


def test_an_attribute_cannot_be_left_by_a_quote():
    assert tag("a", "x", title='" onclick="y') == '<a title="&quot; onclick=&quot;y">x</a>'
    assert tag("p", Html("<b>"), "<b>") == "<p><b>&lt;b&gt;</p>"


def test_paths_and_identities_in_a_provenance_are_not_printed():
    provenance = {
        "model": {"name": "net", "version": "1.2", "sha256": {"model.onnx": "ab" * 32}, "source": "/home/Mueller^Anna"},
        "software": {"LiverMargin": "0.1", "numpy": "2.0"},
        "patient": "Mueller^Anna",
        "options": {"threshold": 0.5, "input": "/data/Mueller^Anna/ct.nii", "accession": "ACC123456"},
        "notices": ["Read from /data/Mueller^Anna/ct.nii and C:\\scans\\Mueller^Anna.", "Spacing was assumed."],
    }
    study, fragments = made(2, provenance=provenance)
    text = report_html(study, fragments.get)
    assert "Mueller" not in text
    assert "ACC123456" not in text
    assert "/data" not in text
    page = Page(text)
    assert "net 1.2" in page.text
    assert "model.onnx abababababab" in page.text
    assert "ab" * 7 not in page.text
    assert "Spacing was assumed. (2 patients)" in page.text
    assert model_provenance(study, "U-Net")["threshold"] == "0.5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from /a/b c", "from [path] c"),
        ("~/x.nii", "[path]"),
        ("C:\\a b", "[path] b"),
        ("\\\\server\\x", "[path]"),
        ("1.5 mm and/or 2", "1.5 mm and/or 2"),
        ("a/b/c.nii", "[path]"),
    ],
)
def test_what_looks_like_a_path_is_replaced(text, expected):
    assert without_paths(text) == expected


def test_one_patient_gives_no_interval_no_test_and_says_so():
    study, fragments = made(1)
    page = Page(report_html(study, fragments.get))
    assert "This is one patient" in page.text
    assert "Wilcoxon" not in page.text
    assert "one patient gives no confidence interval" in page.text
    assert "nan" not in page.text.split()


def test_the_summary_says_who_is_better_by_what_and_that_few_patients_prove_nothing(study):
    words = " ".join(summary_sentences(study[0]))
    best = study[0].models["Detectron2"].metrics["boundary_iou"].patient_mean.value
    assert f"Detectron2 followed the boundary best: mean Boundary IoU (d = 1 px) {best:.3f}" in words
    assert "not significant" in words
    assert "cannot give a p below 0.25" in words
    assert "U-Net missed 3 of 18 slices" in words
    assert "In 6 slices the organ falls into two or more regions" in words
    assert "0 by Detectron2 and 6 by U-Net" in words
    assert "1 case could not be compared" in words


def test_eight_patients_that_all_agree_are_significant():
    study, _ = made(8)
    words = " ".join(summary_sentences(study))
    pair = next(p for p in study.paired if p.metric == "boundary_iou")
    assert pair.p_holm < 0.05
    assert f"the difference is significant (Wilcoxon signed-rank test, 8 pairs, p = {pair.p_holm:.3f})" in words
    assert "cannot give" not in words


def test_a_model_that_found_nothing_is_counted_and_drawn_without_trouble():
    study, fragments = made(3, empty=1)
    page = Page(report_html(study, fragments.get))
    assert "In 1 patient U-Net found nothing at all" in page.text
    assert "1 failed" in page.text
    assert "∞" in page.text


def test_a_single_model_is_no_contest():
    reference, predictions = label_maps(0)
    study = summarise([compare_case(reference, {"U-Net": predictions["U-Net"]}, case="one")])
    page = Page(report_html(study, lambda case: None))
    assert "U-Net reached a Boundary IoU" in page.text
    assert "★" not in page.text


def test_many_patients_are_all_in_the_table_but_only_the_worst_are_drawn(monkeypatch):
    monkeypatch.setattr("LiverMarginLib.report.facts.MOST_SHOWN", 2)
    study, fragments = made(4)
    asked: list[str] = []

    def fragment_of(case):
        asked.append(case)
        return fragments[case]

    text = report_html(study, fragment_of)
    page = Page(text)
    assert sorted(asked) == sorted(fragments)
    assert all(name in page.text for name in fragments)
    details = [a["id"] for a in page.all("section") if re.fullmatch(r"patient-\d+", a.get("id", ""))]
    assert len(details) == 2
    worst = min(study.cases, key=lambda c: min(p.values["boundary_iou"].value for p in c.predictions.values()))
    assert text.index('id="patient-1"') < text.index(f"<h3>{worst.case}</h3>") < text.index('id="patient-2"')


def test_any_number_of_patients_with_full_size_pictures_stays_below_five_megabytes():
    """As many as are drawn take at most four times as much as two."""
    assert MOST_SHOWN == 8
    shape = (6, 400, 400)
    grid = Geometry(shape, np.diag((-0.8, -0.8, 4.0, 1.0)))
    rng = np.random.default_rng(0)
    disk = np.hypot(*np.meshgrid(np.arange(400) - 200, np.arange(400) - 180)) < 120
    noisy = Volume(rng.normal(40, 25, shape).astype(np.int16), grid, Modality.CT, IntensityKind.HU)
    cases, fragments = [], {}
    for n in range(2):
        reference = LabelMap(np.repeat(disk[None], 6, axis=0).astype(np.uint8), grid)
        predictions = {
            name: LabelMap(np.roll(reference.array, shift + n, axis=2), grid)
            for name, shift in zip(MODELS, (2, 6), strict=True)
        }
        case = compare_case(reference, predictions, case=f"case {n}")
        fragments[case.case] = make_fragment(case, slice_stack(case, reference, predictions, noisy))
        cases.append(without_margin(case))
    assert len(report_html(summarise(cases), fragments.get)) < 5e6 / 4


def test_two_region_counts_and_regions_add_up(study):
    found = two_regions(study[0], "U-Net")
    tables = [case.predictions["U-Net"].slices for case in study[0].cases]
    flags = np.concatenate([t["two_regions"] for t in tables])
    assert found.n == flags.sum() == 6
    assert found.mask_iou == pytest.approx(np.concatenate([t["mask_iou"] for t in tables])[flags].mean())
    assert found.n_with_miss == 6
    regions = errors_by_region(study[0], "U-Net")
    heights = [regions[name] for name in ("dome", "middle", "lower tip")]
    assert sum(r.error_share for r in heights) == pytest.approx(1)
    case_sums = [c.predictions["U-Net"].overlap.sum() for c in study[0].cases]
    missed = sum(int(o.reference - o.intersection) for o in case_sums) * GRID.voxel_volume / 1000
    assert sum(r.missed_ml for r in heights) == pytest.approx(missed)
    assert regions["dome"].dice == pytest.approx(
        2 * (regions["dome"].reference_ml - regions["dome"].missed_ml)
        / (2 * (regions["dome"].reference_ml - regions["dome"].missed_ml)
           + regions["dome"].missed_ml + regions["dome"].extra_ml)
    )  # fmt: skip


def test_a_fragment_survives_its_file(study, html, tmp_path):
    fragment = study[1]["patient 1"]
    write_fragment(fragment, tmp_path / "a.npz")
    again = read_fragment(tmp_path / "a.npz")
    assert report_html(study[0], {**study[1], "patient 1": again}.get) == html
    assert [entry.chosen for entry in again.gallery] == [entry.chosen for entry in fragment.gallery]


@pytest.mark.parametrize("damage", [b"", b"PK nonsense", None])
def test_a_damaged_fragment_is_refused_with_one_sentence(study, tmp_path, damage):
    path = tmp_path / "a.npz"
    write_fragment(study[1]["patient 1"], path)
    path.write_bytes(path.read_bytes()[:-300] if damage is None else damage)
    with pytest.raises(InputError, match="delete it"):
        read_fragment(path)


def test_a_cancelled_report_is_not_written(study, tmp_path):
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        write_report(study[0], study[1].get, tmp_path / "report.html", cancel=token)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    study, _ = made(1)
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(ResourceError, match="full"):
        write_report(study, lambda case: None, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.fixture
def folders(tmp_path):
    """Reference and models of two patients in files."""
    for seed in range(2):
        reference, predictions = label_maps(seed)
        for name, labels in {"reference": reference, **predictions}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            write_nifti(labels, tmp_path / name / f"case{seed}.nii.gz")
    return tmp_path


def job(folders, **options) -> CompareJob:
    return CompareJob(
        reference=str(folders / "reference"),
        predictions={name: str(folders / name) for name in MODELS},
        folder=str(folders / "out"),
        **options,
    )


def test_a_resumed_run_has_the_same_report(folders):
    values = run(job(folders, pdf=True))
    assert {"report.html", "report.pdf"} <= {p.name for p in (folders / "out").iterdir()}
    first = {name: (folders / "out" / name).read_bytes() for name in ("report.html", "report.pdf")}
    for name in first:
        (folders / "out" / name).unlink()
    times = {p: p.stat().st_mtime_ns for p in (folders / "out" / "cases").iterdir()}
    assert len(times) == 4
    assert run(job(folders, pdf=True))["outputs"] == values["outputs"]
    assert times == {p: p.stat().st_mtime_ns for p in (folders / "out" / "cases").iterdir()}
    assert first == {name: (folders / "out" / name).read_bytes() for name in first}
    assert str(folders) not in first["report.html"].decode()


def test_a_report_asked_for_later_gets_its_pictures(folders):
    run(job(folders, report=False))
    assert not (folders / "out" / "report.html").exists()
    assert not list((folders / "out" / "cases").glob("*.npz"))
    run(job(folders))
    page = Page((folders / "out" / "report.html").read_text(encoding="utf-8"))
    assert [a for a in page.all("svg") if "outlines" in (a.get("aria-label") or "")]


def test_a_damaged_fragment_is_made_anew(folders):
    run(job(folders))
    before = (folders / "out" / "report.html").read_bytes()
    next((folders / "out" / "cases").glob("*.npz")).write_bytes(b"damaged")
    run(job(folders))
    assert (folders / "out" / "report.html").read_bytes() == before


def test_an_image_on_another_grid_is_left_out_with_a_notice(folders):
    elsewhere = Geometry((8, 40, 48), np.diag((-2.0, -2.0, 9.0, 1.0)))
    write_nifti(LabelMap(masks(0)[0], elsewhere), folders / "image.nii.gz")
    heard = []
    run(job(folders, image=str(folders / "image.nii.gz")), heard.append)
    assert any("not on the reference's grid" in e.message for e in heard if isinstance(e, Notice))


def test_the_window_of_the_image_reaches_the_page(page):
    """A pixel of 50 HU in the window from -160 to 240 is a little above the middle of the greys."""
    address = next(a["href"] for a in page.all("image") if a["href"].startswith("data:image/jpeg"))
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
    assert grey.ndim == 2
    assert grey.mean() == pytest.approx(255 * 210 / 400, abs=4)


def test_all_columns_are_in_the_table_of_all_numbers(page, study):
    text = page.text.replace("\u00a0", " ")
    for column in patient_columns(study[0].settings).values():
        assert column.definition.name.partition(" (")[0] in text
    assert dataclasses.asdict(study[0].settings)["two_region_min_px"] == 20
