"""Train the models that LiverMargin ships, as they were trained: `python scripts/train_models.py unet-ct -o FOLDER`.

Every model is a chain of `livermargin train` commands; a later one starts from the weights of the one before. What is
printed before each can be copied and run by hand. The networks see procedural phantoms; the last stage of the CT models
sees real scans as well (`--scans`), whose livers the models of the stages before have drawn, and is left out without
them. docs/training.md has the two commands that draw them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

# The seeds make no promise on another machine, another version of torch or of the phantoms' generator.
RECIPES: dict[str, tuple[str, ...]] = {
    "unet-ct": (
        "unet --profile robust --phantoms 60 --validation-phantoms 4 --seed 1 --epochs 20 --set size=256 --set batch=8 "
        "--set early_stopping=null --set steps_per_epoch=50 --set validate_every=5 --set schedule.warmup_steps=100 "
        "--set optimiser.ema_decay=0.995",
        "unet --profile robust --data {scans} --split {scans}/split.json --data-weight 0.5 --with-phantoms "
        "--phantoms 60 --phantoms-without-liver 12 --validation-phantoms 4 --seed 5 --epochs 10 --set size=256 "
        "--set batch=8 --set early_stopping=null --set steps_per_epoch=60 --set validate_every=5 "
        "--set optimiser.learning_rate=0.0006 --set schedule.warmup_steps=40 --set optimiser.ema_decay=0.99 "
        "--set augmentation.crop_p=0.3 --set augmentation.crop=[0.4,1.0] --set precision=bfloat16",
    ),
    "maskrcnn-ct": (
        "detectron2 --profile small --phantoms 60 --seed 1 --epochs 8",
        "detectron2 --profile small --phantoms 60 --seed 2",
        "detectron2 --profile small-112 --phantoms 60 --seed 2 --epochs 4 --set validate_every=4",
        "detectron2 --profile small-112 --data {scans} --split {scans}/split.json --with-phantoms --phantoms 60 "
        "--phantoms-without-liver 12 --validation-phantoms 4 --seed 5 --epochs 5 --set steps_per_epoch=70 "
        "--set validate_every=5 --set optimiser.learning_rate=0.0004 --set augmentation.crop_p=0.4 "
        "--set augmentation.crop=[0.35,1.0]",
    ),
    "unet3d-ct": (
        "unet3d --profile small --target liver --phantoms 50 --phantoms-without-liver 8 --seed 6 --epochs 18 "
        "--set steps_per_epoch=100 --set validate_every=6 --set model_options.widths=[12,24,48] "
        "--set volume.patch=[40,40,40] --set volume.spacing=[5,5,5] --set augmentation.crop_p=0.1 "
        "--set augmentation.crop=[0.2,0.9] --set precision=bfloat16",
        "unet3d --profile small --target liver --data {scans} --split {scans}/split.json --with-phantoms --phantoms 24 "
        "--phantoms-without-liver 6 --validation-phantoms 6 --seed 7 --epochs 12 --set steps_per_epoch=100 "
        "--set validate_every=6 --set model_options.widths=[12,24,48] --set volume.patch=[40,40,40] "
        "--set volume.spacing=[5,5,5] --set augmentation.crop_p=0.1 --set augmentation.crop=[0.2,0.9] "
        "--set optimiser.learning_rate=0.0015 --set precision=bfloat16",
    ),
    "liver-mr": (
        "unet3d --profile small --modality MR --target liver --phantoms 50 --seed 4 --epochs 10 "
        "--set steps_per_epoch=100 --set validate_every=5 --set model_options.widths=[12,24,48] "
        "--set volume.patch=[48,48,48] --set volume.spacing=[4,4,4]",
        "unet3d --profile small --modality MR --target liver --phantoms 36 --validation-phantoms 6 --seed 8 --epochs 6 "
        "--set steps_per_epoch=100 --set validate_every=3 --set model_options.widths=[12,24,48] "
        "--set volume.patch=[48,48,48] --set volume.spacing=[4,4,4] --set augmentation.crop_p=0.12 "
        "--set augmentation.crop=[0.2,0.9] --set optimiser.learning_rate=0.0015 --set precision=bfloat16",
    ),
}


def main() -> int:
    """Run the chain of one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the bundles, one for each stage")
    parser.add_argument("--scans", type=Path, help="data set of real CT with drawn livers, and its split.json")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    options = parser.parse_args()
    before: Path | None = None
    scans = shlex.quote(str(options.scans))
    stages = [stage.replace("{scans}", scans) for stage in RECIPES[options.model] if options.scans or "{" not in stage]
    for number, stage in enumerate(stages, start=1):
        folder = options.output / (options.model if number == len(stages) else f"stage-{number}")
        command = [*shlex.split(stage), "--device", options.device, "--name", options.model]
        command += ["--cache", str(options.output / "phantoms"), "--out", str(folder)]
        command += ["--init", str(before)] if before else []
        print("livermargin train", shlex.join(command), flush=True)
        if not options.dry_run:
            code = subprocess.call([sys.executable, "-m", "LiverMarginLib", "train", *command])
            if code:
                return code
        before = folder
    return 0


if __name__ == "__main__":
    sys.exit(main())
