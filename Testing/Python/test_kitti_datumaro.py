"""What we write is read back by datumaro, the library behind CVAT's own exporter and importer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import two_pieces

from LiverMarginLib.io.kitti_writer import write_kitti

# datumaro wants older versions of much of what we use, so it lives in an environment of its own.
_READ = """
import json, sys
import numpy as np
from datumaro import Dataset
dataset = Dataset.import_from(sys.argv[1], "kitti_segmentation")
labels = [label.name for label in dataset.categories()[__import__("datumaro").AnnotationType.label]]
items = {}
for item in dataset:
    items[item.id] = {
        "subset": item.subset,
        "image": None if item.media is None else np.asarray(item.media.data).astype(int).tolist(),
        "masks": [
            {"label": int(one.label), "id": int(one.id), "crowd": bool(one.attributes["is_crowd"]),
             "pixels": np.argwhere(np.asarray(one.image)).tolist()}
            for one in item.annotations
        ],
    }
print("RESULT" + json.dumps({"labels": labels, "items": items}))
"""


def python_with_datumaro() -> str | None:
    beside = Path(sys.prefix).parent / "datumaro" / "bin" / "python"
    for candidate in (os.environ.get("LIVERMARGIN_DATUMARO_PYTHON"), str(beside), sys.executable):
        if candidate and shutil.which(candidate):
            found = subprocess.run([candidate, "-c", "import datumaro"], capture_output=True, check=False)
            if found.returncode == 0:
                return candidate
    return None


@pytest.mark.slow
def test_datumaro_reads_what_we_write_pixel_for_pixel(tmp_path):
    python = python_with_datumaro()
    if python is None:
        pytest.skip("no Python with datumaro (pip install datumaro; LIVERMARGIN_DATUMARO_PYTHON names it)")
    liver = two_pieces()
    both = liver.copy()
    both[5:8, 4:7] = 2
    masks = [liver, np.zeros_like(liver), both]
    images = np.random.default_rng(0).integers(0, 255, (3, *liver.shape)).astype(np.uint8)
    write_kitti(images, masks, tmp_path / "x.zip", stems=["007", "008", "009"], label_name={1: "liver", 2: "tumour"})
    shutil.unpack_archive(tmp_path / "x.zip", tmp_path / "x")
    done = subprocess.run([python, "-c", _READ, str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.rpartition("RESULT")[2])

    assert found["labels"] == ["background", "liver", "tumour"]
    assert set(found["items"]) == {"007", "008", "009"}
    assert found["items"]["008"]["masks"] == []  # an image without a mask
    for stem, mask, image in (("007", masks[0], images[0]), ("009", masks[2], images[2])):
        item = found["items"][stem]
        assert item["subset"] == "default"
        np.testing.assert_array_equal(np.array(item["image"]), image)
        seen = np.zeros_like(mask)
        for one in item["masks"]:
            if one["label"]:
                assert not one["crowd"]
                seen[tuple(np.array(one["pixels"]).T)] = one["label"]
        np.testing.assert_array_equal(seen, mask)
    assert sorted((m["label"], m["id"], len(m["pixels"])) for m in found["items"]["007"]["masks"] if m["label"]) == [
        (1, 1, 80),
        (1, 2, 42),
    ]
