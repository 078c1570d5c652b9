"""Which images a model accepts, and which intensities become 0 and 1."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from model_tools import AXIS_ORDERS_AND_FLIPS, SQUARE, Fake, bare, ct, reoriented
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import BundleError, InputError
from LiverMarginLib.events import Notice
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.models.intensity_fields import Window, WindowUnit
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume


@pytest.fixture
def bundle(tiny_model):
    return tiny_model


def refused(volume, bundle, options=None) -> str:
    with pytest.raises(InputError) as caught:
        segment_volume(volume, bundle, Fake(), options)
    message = caught.value.message
    assert message.endswith(".")
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def constant(value, dtype=np.int16, **kind) -> Volume:
    return Volume(np.full((3, 8, 8), value, dtype), Geometry((3, 8, 8), SQUARE), **kind)


HU = {"modality": Modality.CT, "intensity": IntensityKind.HU}


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_an_image_of_air_or_of_one_value_is_refused(bundle, dtype):
    assert "same value" in refused(constant(-1000, dtype, **HU), bundle)
    air = constant(-1000, dtype, **HU)
    air.array[1] += np.arange(64, dtype=dtype).reshape(8, 8)
    assert "air" in refused(air, bundle)
    assert "same value" in refused(constant(np.nan, np.float32, **HU), bundle)


def test_an_eight_bit_or_mr_image_is_refused_by_a_ct_model_unless_allowed(bundle):
    eight = Volume(
        np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8),
        Geometry((3, 32, 32), np.diag([-1.0, -1, 1, 1])),
        Modality.CT,
        IntensityKind.EIGHT_BIT,
    )
    mr = dataclasses.replace(eight, array=eight.array * 1000.0, modality=Modality.MR, intensity=IntensityKind.ARBITRARY)
    for volume, low, high in ((eight, 0, 255), (mr, *np.percentile(mr.array, (2, 98)))):
        assert "allow the mismatch" in refused(volume, bundle)
        events = []
        result = segment_volume(volume, bundle, Fake(), SegmentOptions(allow_mismatch=True), events.append)
        assert any(isinstance(event, Notice) and "may be wrong" in event.message for event in events)
        assert result.provenance["options"]["window"] == pytest.approx([low, high])
        np.testing.assert_array_equal(result.array > 0, volume.array >= (low + high) / 2)


def test_hounsfield_units_are_refused_by_an_eight_bit_and_by_an_mr_model(bundle):
    for kind, window in (
        (IntensityKind.EIGHT_BIT, Window(0, 255)),
        (IntensityKind.ARBITRARY, Window(2, 98, WindowUnit.PERCENTILE)),
    ):
        model = bare(bundle, modality=Modality.UNKNOWN, input_kind=kind, window=window)
        assert "Hounsfield" in refused(ct(), model)
        assert "Hounsfield" in refused(ct(modality=Modality.UNKNOWN, intensity=IntensityKind.ARBITRARY), model)


def test_an_unmarked_image_with_the_range_of_a_ct_is_taken_for_one_and_the_user_is_told(bundle):
    unmarked = ct(modality=Modality.UNKNOWN, intensity=IntensityKind.ARBITRARY)
    events = []
    result = segment_volume(unmarked, bundle, Fake(), on_event=events.append)
    assert any(isinstance(event, Notice) and "Hounsfield" in event.message for event in events)
    np.testing.assert_array_equal(result.array, segment_volume(ct(), bundle, Fake()).array)
    positive = dataclasses.replace(unmarked, array=unmarked.array + np.int16(2000))
    assert "arbitrary units" in refused(positive, bundle)


def test_a_window_in_percentiles_is_that_of_the_whole_image_in_every_axis_order(bundle):
    model = bare(
        bundle,
        modality=Modality.MR,
        input_kind=IntensityKind.ARBITRARY,
        window=Window(10, 60, WindowUnit.PERCENTILE),
    )
    mr = ct((4, 32, 32), modality=Modality.MR, intensity=IntensityKind.ARBITRARY, dtype=np.float32)
    mr.array[0, 0, 0] = np.nan
    for order, signs in AXIS_ORDERS_AND_FLIPS[::7]:
        other, _ = reoriented(mr, order, signs, Rotation.identity())
        window = segment_volume(other, model, Fake()).provenance["options"]["window"]
        assert window == pytest.approx(list(np.nanpercentile(mr.array, (10, 60))))


def test_voxels_that_are_not_numbers_are_background_and_the_user_is_told(bundle):
    volume = ct(dtype=np.float32)
    expected = segment_volume(volume, bundle, Fake()).array.copy()
    volume.array[2, 3:6, 4:9] = np.nan
    volume.array[3, 1, 1] = np.inf
    expected[2, 3:6, 4:9] = 0
    expected[3, 1, 1] = 1
    events = []
    result = segment_volume(volume, bundle, Fake(), on_event=events.append)
    assert any(isinstance(event, Notice) and event.message.startswith("16 voxels") for event in events)
    np.testing.assert_array_equal(result.array, expected)


def test_a_network_that_gives_no_numbers_is_reported_and_not_taken_for_an_empty_liver(bundle):
    class Broken(Fake):
        def predict(self, batch):
            return np.full_like(batch, np.nan)

    with pytest.raises(BundleError, match="not numbers"):
        segment_volume(ct(), bundle, Broken())


def test_no_liver_is_an_empty_result_with_a_notice(bundle):
    class Nothing(Fake):
        def predict(self, batch):
            return np.zeros_like(batch)

    events = []
    result = segment_volume(ct(), bundle, Nothing(), on_event=events.append)
    assert not result.array.any()
    assert result.segments == (LIVER,)
    assert "No liver was found in this image." in [e.message for e in events if isinstance(e, Notice)]


def test_pixels_of_unknown_size_are_taken_for_square_and_no_millilitres_are_counted(bundle):
    volume = ct((3, 32, 32), matrix=np.diag([-1.0, -2.0, 1, 1]), spacing_known=False)
    square = ct((3, 32, 32), matrix=np.diag([-1.0, -1.0, 1, 1]))
    events = []
    result = segment_volume(volume, bundle, Fake(), SegmentOptions(min_volume_ml=1e6), events.append)
    np.testing.assert_array_equal(result.array, segment_volume(square, bundle, Fake()).array)
    assert any(isinstance(event, Notice) and "spacing is not known" in event.message for event in events)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"threshold": 0},
        {"threshold": 1},
        {"threshold": float("nan")},
        {"min_volume_ml": -1},
        {"slice_range": (3, 3)},
        {"slice_range": (-1, 3)},
        {"slice_range": (0, 7)},
    ],
    ids=str,
)
def test_options_out_of_their_range_are_refused(bundle, options):
    with pytest.raises(InputError):
        segment_volume(ct(), bundle, Fake(), SegmentOptions(**options))
