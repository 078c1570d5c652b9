"""Train the models that LiverMargin ships, as they were trained: `python scripts/train_models.py unet-ct -o FOLDER`.

Every model is a chain of `livermargin train` commands; a later one starts from the weights of the one before. What is
printed before each can be copied and run by hand. No scan of a patient is needed: the networks see procedural phantoms.
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
    ),
    "maskrcnn-ct": (
        "detectron2 --profile small --phantoms 60 --seed 1 --epochs 8",
        "detectron2 --profile small --phantoms 60 --seed 2",
        "detectron2 --profile small-112 --phantoms 60 --seed 2 --epochs 4 --set validate_every=4",
    ),
    "liver-mr": (
        "unet3d --profile small --modality MR --target liver --phantoms 50 --seed 4 --epochs 10 "
        "--set steps_per_epoch=100 --set validate_every=5 --set model_options.widths=[12,24,48] "
        "--set volume.patch=[48,48,48] --set volume.spacing=[4,4,4]",
    ),
}


def main() -> int:
    """Run the chain of one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the bundles, one for each stage")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    options = parser.parse_args()
    before: Path | None = None
    stages = RECIPES[options.model]
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
