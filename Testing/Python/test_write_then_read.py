"""What the writers write, the readers read: values, place in the patient, names, colours and codes."""

from __future__ import annotations

import pytest
from example_labels import NOT_NAMED, axis_orders, example, in_patient_space, reorder
from test_write_dicom_seg import write_series

from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.io.writers import formats, write_labelmap
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import LabelMap

GRIDS = [suffix for suffix in formats() if suffix not in {".stl", ".obj", ".ply", ".3mf"}]


@pytest.mark.parametrize("suffix", GRIDS)
def test_labels_come_back_in_their_place_for_every_axis_order(tmp_path, suffix):
    write_series(tmp_path / "series", example().geometry)
    expected = list(in_patient_space(example().array, example().geometry.ijk_to_ras).items())
    if suffix == ".dcm":  # segments are numbered without gaps there
        expected = [(point, 3 if label == NOT_NAMED else label) for point, label in expected]
    for axes, flips in axis_orders():
        labels = reorder(example(), axes, flips)
        (path,) = write_labelmap(labels, tmp_path / f"a{suffix}", source=tmp_path / "series")
        found = read_labels(path)
        # NIfTI stores the affine in single precision, and positions that differ by that may round differently.
        points = in_patient_space(found.array, found.geometry.ijk_to_ras)
        nearest = {tuple(round(x, 2) for x in point): label for point, label in points.items()}
        assert nearest == {tuple(round(x, 2) for x in point): label for point, label in expected}, (axes, flips)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".dcm"])
def test_names_colours_and_codes_come_back(tmp_path, suffix):
    write_series(tmp_path / "series", example().geometry)
    (path,) = write_labelmap(example(), tmp_path / f"a{suffix}", source=tmp_path / "series")
    found = {segment.name: segment for segment in read_labels(path).segments}
    assert set(found) == {"Liver", "Mass in Liver", f"Segment_{NOT_NAMED}"}
    for segment in (LIVER, LIVER_MASS):
        back = found[segment.name]
        assert back.label == segment.label
        assert all(abs(a - b) <= 1 for a, b in zip(back.colour, segment.colour, strict=True))
        assert back.terminology is not None
        assert back.terminology.type.value == segment.terminology.type.value
        assert back.terminology.category.value == segment.terminology.category.value


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".dcm"])
def test_what_was_read_can_be_written_again_and_stays_the_same(tmp_path, suffix):
    write_series(tmp_path / "series", example().geometry)
    first, second = (tmp_path / f"{name}{suffix}" for name in ("first", "second"))
    write_labelmap(example(), first, source=tmp_path / "series")
    once = read_labels(first)
    write_labelmap(once, second, source=tmp_path / "series")
    twice = read_labels(second)
    assert isinstance(twice, LabelMap)
    assert [(s.label, s.name) for s in twice.segments] == [(s.label, s.name) for s in once.segments]
    assert in_patient_space(twice.array, twice.geometry.ijk_to_ras) == in_patient_space(
        once.array, once.geometry.ijk_to_ras
    )
