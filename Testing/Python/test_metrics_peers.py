"""The numbers of MONAI and of google-deepmind/surface-distance, where those are installed.

Neither is needed to use or to test LiverMargin; `scripts/benchmark.py metrics` prints the same differences.
"""

from __future__ import annotations

import golden_metrics as golden
import numpy as np
import pytest

from LiverMarginLib.metrics.overlap import dice
from LiverMarginLib.metrics.surface import surfel_surface_distances, voxel_surface_distances
from LiverMarginLib.metrics.surfels import surfel_areas

PAIRS = {name: pair for name, pair in golden.difficult_pairs().items() if pair[0].any() and pair[1].any()}
SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.78, 0.78), (0.5, 2.3, 1.1)]
TOLERANCES = (1.0, 2.0, 3.0)


@pytest.fixture(scope="module")
def deepmind():
    module = pytest.importorskip("surface_distance", reason="google-deepmind/surface-distance is not installed")
    if not hasattr(module, "compute_surface_dice_at_tolerance"):
        pytest.skip("the surface_distance that is installed is not google-deepmind's")
    return module


@pytest.fixture(scope="module")
def monai():
    return pytest.importorskip("monai.metrics", reason="MONAI is not installed")


def real_pair(real_data) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A real liver, and the same eroded, shifted and with a bite taken out of it."""
    sitk = pytest.importorskip("SimpleITK", reason="reads the real volumes")
    image = sitk.ReadImage(str(real_data / "mr_amos_0540" / "labels.nii.gz"))
    reference = sitk.GetArrayFromImage(image) == 6
    prediction = np.roll(reference, (0, 1, 2), (0, 1, 2))
    prediction[:, :, : reference.shape[2] // 3] = False
    return reference, prediction, image.GetSpacing()[::-1]


def assert_like_deepmind(module, reference, prediction, spacing) -> None:
    theirs = module.compute_surface_distances(reference, prediction, spacing)
    ours = surfel_surface_distances(reference, prediction, spacing)
    for t in TOLERANCES:
        assert ours.nsd(t) == pytest.approx(module.compute_surface_dice_at_tolerance(theirs, t), abs=1e-6)
    for percent in (50, 95, 100):
        assert ours.hausdorff_percentile(percent) == pytest.approx(
            module.compute_robust_hausdorff(theirs, percent), abs=1e-6
        )
    assert ours.mean_distances() == pytest.approx(module.compute_average_surface_distance(theirs), abs=1e-6)
    assert dice(reference, prediction) == pytest.approx(module.compute_dice_coefficient(reference, prediction))


def assert_like_monai(module, reference, prediction, spacing) -> None:
    import torch

    p, g = (torch.from_numpy(m.copy())[None, None] for m in (prediction, reference))
    options = {"include_background": True, "spacing": spacing}
    voxel = voxel_surface_distances(reference, prediction, spacing)
    surfel = surfel_surface_distances(reference, prediction, spacing)
    # MONAI computes in single precision.
    close = {"abs": 1e-6, "rel": 1e-6}
    assert voxel.hausdorff() == pytest.approx(float(module.compute_hausdorff_distance(p, g, **options)), **close)
    assert voxel.hausdorff_percentile(95) == pytest.approx(
        float(module.compute_hausdorff_distance(p, g, percentile=95, **options)), **close
    )
    assert voxel.assd() == pytest.approx(
        float(module.compute_average_surface_distance(p, g, symmetric=True, **options)), **close
    )
    for t in TOLERANCES:
        assert voxel.nsd(t) == pytest.approx(float(module.compute_surface_dice(p, g, [t], **options)), **close)
        assert surfel.nsd(t) == pytest.approx(
            float(module.compute_surface_dice(p, g, [t], use_subvoxels=True, **options)), **close
        )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_surfel_metrics_equal_those_of_surface_distance(deepmind, name, spacing):
    assert_like_deepmind(deepmind, *PAIRS[name], spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_voxel_and_surfel_metrics_equal_those_of_monai(monai, name, spacing):
    assert_like_monai(monai, *PAIRS[name], spacing)


def test_the_table_of_surface_areas_is_that_of_surface_distance(deepmind):
    from surface_distance import lookup_tables

    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area((5.0, 0.7, 1.3))
    for code, area in enumerate(surfel_areas((5.0, 0.7, 1.3))):
        cube = np.array([code >> bit & 1 for bit in range(8)]).reshape(2, 2, 2)
        assert area == pytest.approx(theirs[(kernel * cube).sum()], abs=1e-12)


@pytest.mark.realdata
def test_a_real_liver_gets_the_numbers_of_surface_distance(deepmind, real_data):
    assert_like_deepmind(deepmind, *real_pair(real_data))


@pytest.mark.realdata
def test_a_real_liver_gets_the_numbers_of_monai(monai, real_data):
    assert_like_monai(monai, *real_pair(real_data))
