"""From a CT to compared and exported liver segmentations: `python3 scripts/demo.py`.

Makes its own environment, then segments a CT by two models, compares both with a reference, side by side, exports the
results and says where everything is. Without options the CT is a synthetic abdomen with exact labels; `--input` takes
one's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import _environment

MODELS = ("unet-ct", "maskrcnn-ct")
REAL_CASE = "ct_portal_slab"
FORMATS = ("seg.nrrd", "nii.gz", "nrrd", "dcm", "stl")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, help="a CT of one's own: DICOM folder, NIfTI, NRRD or MHA")
    parser.add_argument("--series", help="which DICOM series, when the folder holds several")
    parser.add_argument("--reference", type=Path, help="a segmentation of the same patient to compare with")
    parser.add_argument("--label", help="value or name of the liver in the reference (needed if it has several labels)")
    parser.add_argument(
        "--model",
        nargs="+",
        default=list(MODELS),
        help=f"bundles to segment with, side by side (default: {' '.join(MODELS)})",
    )
    parser.add_argument("--output", type=Path, default=Path("livermargin-demo"), help="folder for the results")
    options = parser.parse_args()
    if len({Path(model).name for model in options.model}) < len(options.model):
        parser.error("two of the models have the same name; give each once")
    return options


def real_case() -> dict[str, object] | None:
    """Return the real CT with a liver label, where the development data lie beside the source tree."""
    from LiverMarginLib.diagnostics import sample_data_folder

    data = sample_data_folder()
    if data is None:
        return None
    folder = data / REAL_CASE
    return {"name": REAL_CASE, "input": folder / "dicom", "reference": folder / "labels.nii.gz", "label": "5"}


def cases(options: argparse.Namespace, terminal: object) -> list[dict[str, object]]:
    """Return what to segment: the user's own CT, or the phantom and the real case."""
    if options.input:
        # The folder is named by us: the name of a patient's file is none of a result folder's business.
        return [
            {"name": "case", "input": options.input, "series": options.series, "reference": options.reference,
             "label": options.label}
        ]  # fmt: skip
    from LiverMarginLib.jobs.phantom import PhantomJob

    folder = options.output / "phantom" / "data"
    if not (folder / "ct").is_dir():
        terminal.run(PhantomJob(folder=str(folder), seed=7, shape=(48, 512, 512), spacing=(5.0, 0.78, 0.78)))
    found = [{"name": "phantom", "input": folder / "ct", "reference": folder / "liver.seg.nrrd", "label": "1"}]
    real = real_case()
    return [*found, real] if real else found


def run_case(case: dict[str, object], options: argparse.Namespace, terminal: object) -> list[dict[str, object]]:
    """Segment and export one case by every model, and compare the models; one row a model."""
    from LiverMarginLib.jobs.compare import CompareJob
    from LiverMarginLib.jobs.segment import SegmentJob

    folder = options.output / str(case["name"])
    source = Path(str(case["input"]))
    formats = [name for name in FORMATS if name != "dcm" or source.is_dir()]
    rows = []
    for model in options.model:
        # A model may be given by its folder; the results are called after the bundle.
        name = Path(model).name
        terminal.note(f"\n{case['name']}: segmenting with {name}")
        started = time.perf_counter()
        segmented = terminal.run(
            SegmentJob(
                input=str(source),
                series=case.get("series"),
                model=model,
                outputs=tuple(str(folder / name / f"liver.{suffix}") for suffix in formats),
            )
        )
        rows.append(
            {
                "case": case["name"],
                "model": name,
                "volume_ml": segmented["segments"][0]["volume_ml"],
                "seconds": time.perf_counter() - started,
                "folder": str(folder),
            }
        )
    if case["reference"]:
        compared = terminal.run(
            CompareJob(
                reference=str(case["reference"]),
                predictions={str(row["model"]): str(folder / str(row["model"]) / "liver.seg.nrrd") for row in rows},
                label=case["label"],
                image=str(source),
                series=case.get("series"),
                folder=str(folder / "comparison"),
            )
        )
        for row in rows:
            row.update(compared["patients"][0]["models"][row["model"]])
    return rows


def main() -> int:
    """Run every case and print the table."""
    from LiverMarginLib.commands.compare import SHOWN
    from LiverMarginLib.commands.terminal import Terminal
    from LiverMarginLib.errors import LiverMarginError

    options = arguments()
    options.output = options.output.resolve()
    terminal = Terminal()
    try:
        rows = [row for case in cases(options, terminal) for row in run_case(case, options, terminal)]
    except LiverMarginError as error:
        terminal.close()
        print(f"demo: {error.message}", file=sys.stderr)
        return error.exit_code
    shown = {"volume_ml": "segmented (ml)", **SHOWN, "seconds": "time (s)"}
    shown.pop("prediction_ml")
    terminal.table(
        "Against the reference",
        ("", *(f"{row['case']}, {row['model']}" for row in rows)),
        [
            (title, *(row.get(key) for row in rows))
            for key, title in shown.items()
            if any(row.get(key) is not None for row in rows)
        ],
    )
    for case, folder in {str(row["case"]): row["folder"] for row in rows}.items():
        terminal.note(f"{case}: {folder}")
    if any(row["case"] == REAL_CASE for row in rows):
        terminal.note(f"The reference of {REAL_CASE} is the output of another model (TotalSegmentator), not a drawing.")
    return 0


if __name__ == "__main__":
    _environment.enter("demo")
    sys.exit(main())
