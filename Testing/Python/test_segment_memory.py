"""How much memory a long CT takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from model_tools import tiny_manifest, tiny_unet

from LiverMarginLib.models.bundle import Bundle, save_bundle

REPOSITORY = Path(__file__).resolve().parents[2]


MEASURE = '''
import resource, sys
import numpy as np
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import FillHoles
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume


class FirstBatches:
    """Computes the first batches, then gives the last one shifted: memory as in a whole run, in a tenth of the time."""

    def __init__(self, segmenter):
        self.segmenter, self.calls = segmenter, 0

    def __getattr__(self, name):
        return getattr(self.segmenter, name)

    def predict(self, batch):
        self.calls += 1
        if self.calls <= 20:
            self.last = self.segmenter.predict(batch)
        return np.roll(self.last[: len(batch)], 7 * self.calls, 2)


folder, runtime, slices = sys.argv[1], sys.argv[2], int(sys.argv[3])
# White noise makes the mask fall into as many pieces as can be, which is the worst that post-processing can meet.
plane = np.random.default_rng(0).normal(0, 300, (512, 512)).astype(np.float32)
array = np.empty((slices, 512, 512), np.float32)
for k in range(slices):
    array[k] = np.roll(plane, k)
volume = Volume(array, Geometry(array.shape, np.diag([-0.7, -0.7, 1.0, 1.0])), Modality.CT, IntensityKind.HU)
bundle = Bundle.load(folder)
segmenter = FirstBatches(load_segmenter(bundle, device="cpu", runtime=runtime))
options = SegmentOptions(largest_component=True, fill_holes=FillHoles.VOLUME)
segment_volume(volume, bundle, segmenter, options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, array.nbytes)
'''


def peak_memory(folder: Path, runtime: str, slices: int) -> tuple[int, int]:
    """Peak resident bytes of a process that segments, and the bytes of its volume as float32."""
    command = [sys.executable, "-c", MEASURE, str(folder), runtime, str(slices)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    peak, volume = done.stdout.split()
    return int(peak), int(volume)


@pytest.fixture(scope="module")
def table_4_bundle(tmp_path_factory) -> Bundle:
    widths = [16, 32, 64, 128, 256]
    parameters = {"in_channels": 1, "classes": 1, "widths": widths, "dropout": 0.1}
    manifest = tiny_manifest(parameters=parameters, input_size=(512, 512))
    return save_bundle(tmp_path_factory.mktemp("models") / "m", manifest, module=tiny_unet(widths=widths), half=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_segmenting_600_slices_needs_the_volume_and_one_and_a_half_gigabytes(table_4_bundle, runtime):
    peak, volume = peak_memory(table_4_bundle.folder, runtime, 600)
    assert peak < volume + 1.5e9
