"""Denoising a volume into a new one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from LiverMarginLib.errors import BundleError, Cancelled, InputError  # noqa: E402
from LiverMarginLib.events import CancelToken, Progress  # noqa: E402
from LiverMarginLib.inference.denoising import Denoiser, denoise_volume, finer_geometry, load_denoiser  # noqa: E402
from LiverMarginLib.models.bundle import Bundle, save_bundle  # noqa: E402
from LiverMarginLib.models.dncnn_sr import DnCNNSR  # noqa: E402
from LiverMarginLib.models.manifest import Manifest, Task, Window  # noqa: E402
from LiverMarginLib.report.denoising import draw_denoising  # noqa: E402
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume  # noqa: E402


def bundle(folder: Path, scale: int, *, onnx: bool = False, trained: bool = False) -> Bundle:
    module = DnCNNSR(scale, width=4)
    if trained:
        torch.manual_seed(0)
        torch.nn.init.normal_(module.tail.weight, std=0.02)
    manifest = Manifest(
        name="toy-denoiser",
        version="1.0",
        architecture="dncnn-sr",
        modality=Modality.CT,
        input_kind=IntensityKind.HU,
        window=Window(-160.0, 240.0),
        labels=(),
        parameters={"scale": scale, "width": 4},
        task=Task.DENOISING,
        input_size=(32, 32),
    )
    return save_bundle(folder / f"x{scale}", manifest, module=module, onnx=onnx)


def volume(dtype: type = np.int16) -> Volume:
    """An oblique CT, sagittally stored, with air, bone and soft tissue."""
    rng = np.random.default_rng(0)
    array = rng.normal(40, 60, (14, 12, 5))
    array[:, :3] = -1000
    array[3:5, 5:7] = 900
    directions = np.array([[0.1, -1.0, 0.05], [-0.99, -0.1, 0.1], [-0.1, -0.05, 1.0]])  # (i, j, k) columns in RAS
    directions = np.linalg.qr(directions)[0] * np.sign(np.diag(np.linalg.qr(directions)[1]))
    matrix = np.eye(4)
    matrix[:3, :3] = directions[:, [2, 1, 0]] * (3.0, 0.8, 0.7)
    matrix[:3, 3] = (10, 20, 30)
    return Volume(array.astype(dtype), Geometry((14, 12, 5), matrix), Modality.CT, IntensityKind.HU)


def axial(shape: tuple[int, int, int]) -> Volume:
    """A noisy axial CT."""
    array = np.random.default_rng(1).normal(40, 30, shape).astype(np.float32)
    return Volume(array, Geometry(shape, np.diag((-1.0, -1.0, 3.0, 1.0))), Modality.CT, IntensityKind.HU)


def test_an_untrained_network_gives_the_same_values_in_a_new_volume(tmp_path: Path) -> None:
    before = volume()
    kept = before.array.copy()
    after = denoise_volume(before, load_denoiser(bundle(tmp_path, 1), device="cpu"))
    assert after.array is not before.array and not np.shares_memory(after.array, before.array)
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(before.array, kept)
    assert after.array.dtype == np.int16 and after.geometry.agrees_with(before.geometry)
    assert "toy-denoiser" in after.notes[-1]


def test_only_values_inside_the_window_change(tmp_path: Path) -> None:
    before = volume(np.float32)
    after = denoise_volume(before, load_denoiser(bundle(tmp_path, 1, trained=True), device="cpu"))
    outside = (before.array <= -160) | (before.array >= 240)
    assert outside.any() and not outside.all()
    np.testing.assert_array_equal(after.array[outside], before.array[outside])
    assert (after.array[~outside] != before.array[~outside]).mean() > 0.9
    assert after.array[~outside].min() >= -160 and after.array[~outside].max() <= 240


def test_slices_are_seen_in_the_axial_view_whatever_the_storage_order(tmp_path: Path) -> None:
    denoiser = load_denoiser(bundle(tmp_path, 1, trained=True), device="cpu")
    before = volume(np.float32)
    after = denoise_volume(before, denoiser)
    matrix = before.geometry.ijk_to_ras @ np.array(
        [[-1, 0, 0, 4], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]
    )  # i flipped, j and k exchanged
    swapped = Volume(
        np.ascontiguousarray(before.array.transpose(1, 0, 2)[..., ::-1]),
        Geometry((12, 14, 5), matrix),
        Modality.CT,
        IntensityKind.HU,
    )
    other = denoise_volume(swapped, denoiser)
    np.testing.assert_allclose(other.array.transpose(1, 0, 2)[..., ::-1], after.array, atol=1e-3)


def test_scale_2_halves_the_pixels_and_keeps_the_place(tmp_path: Path) -> None:
    before = volume(np.float32)
    after = denoise_volume(before, load_denoiser(bundle(tmp_path, 2), device="cpu"))
    # i of this image is the patient's long axis; k and j are in the axial plane.
    assert sorted(np.array(after.array.shape) / before.array.shape) == [1, 2, 2]
    assert after.geometry.overlap_fraction(before.geometry) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(after.geometry.corners().mean(axis=0), before.geometry.corners().mean(axis=0))
    soft = (before.array > -100) & (before.array < 200)
    k, j = (2 if a == 2 * b else 1 for a, b in zip(after.array.shape[:2], before.array.shape[:2], strict=True))
    means = after.array.reshape(14, k, 12, j, -1).mean(axis=(1, 3)).reshape(14, 12, 5, -1).mean(axis=-1)
    assert np.corrcoef(means[soft], before.array[soft])[0, 1] > 0.7


def test_a_finer_grid_covers_the_same_extent() -> None:
    geometry = volume().geometry
    fine = finer_geometry(geometry, (1, 2, 3))
    assert fine.shape == (14, 24, 15)
    np.testing.assert_allclose(fine.spacing, np.array(geometry.spacing) / (1, 2, 3))
    # The first two parts of voxel j = 0 lie a quarter of it before and behind its centre.
    centre = geometry.ijk_to_ras @ (0, 0, 0, 1)
    parts = [fine.ijk_to_ras @ (1, j, 0, 1) for j in (0, 1)]
    np.testing.assert_allclose(np.mean(parts, axis=0), centre)


def test_onnx_runtime_gives_the_same_volume(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    made = bundle(tmp_path, 1, onnx=True, trained=True)
    by_torch, by_onnx = (load_denoiser(made, device="cpu", runtime=runtime) for runtime in ("torch", "onnx"))
    before = axial((2, 32, 32))
    np.testing.assert_allclose(denoise_volume(before, by_onnx).array, denoise_volume(before, by_torch).array, atol=0.05)
    assert denoise_volume(axial((2, 20, 31)), by_onnx).array.shape == (2, 20, 31)
    with pytest.raises(InputError, match="too large for this model's ONNX graph"):
        denoise_volume(axial((2, 20, 33)), by_onnx)


def test_progress_is_told_and_a_cancelled_denoising_ends(tmp_path: Path) -> None:
    denoiser = load_denoiser(bundle(tmp_path, 1), device="cpu")
    events = []
    denoise_volume(volume(), denoiser, events.append)
    assert [(e.done, e.total) for e in events if isinstance(e, Progress)][-1] == (5, 5)
    token = CancelToken()
    with pytest.raises(Cancelled):
        denoise_volume(volume(), denoiser, lambda event: token.cancel(), token)


def test_a_model_that_does_not_denoise_is_refused(tmp_path: Path) -> None:
    from LiverMarginLib.models.unet import UNet
    from LiverMarginLib.terminology import LIVER

    parameters = {"widths": [4, 8], "in_channels": 1, "classes": 1, "dropout": 0.1}
    manifest = replace(
        bundle(tmp_path, 1).manifest,
        architecture="unet",
        task=Task.SEGMENTATION,
        labels=(LIVER,),
        parameters=parameters,
        weights={},
    )
    segmenter = save_bundle(tmp_path / "unet", manifest, module=UNet(**parameters), onnx=False)
    with pytest.raises(BundleError, match="does not denoise"):
        load_denoiser(segmenter)


def test_an_mr_is_refused_unless_forced(tmp_path: Path) -> None:
    mr = replace(volume(np.float32), modality=Modality.MR, intensity=IntensityKind.ARBITRARY)
    denoiser = load_denoiser(bundle(tmp_path, 1), device="cpu")
    with pytest.raises(InputError):
        denoise_volume(mr, denoiser)
    assert denoise_volume(mr, denoiser, allow_mismatch=True).array.shape == mr.array.shape


def test_a_network_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    broken = Denoiser(bundle(tmp_path, 1), "cpu", "torch", lambda image: image * np.nan)
    with pytest.raises(BundleError, match="not numbers"):
        denoise_volume(volume(), broken)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_figure_shows_before_and_after(tmp_path: Path, scale: int) -> None:
    from matplotlib.image import imread

    before = volume()
    after = denoise_volume(before, load_denoiser(bundle(tmp_path, scale, trained=True), device="cpu"))
    picture = imread(draw_denoising(before, after, tmp_path / "figure.png"))
    assert picture.shape[1] > 800 and picture.std() > 0.05
    assert [path.name for path in tmp_path.glob("*.png")] == ["figure.png"]
