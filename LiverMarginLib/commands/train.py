"""`livermargin train unet|unet3d|medformer|dncnn-sr|detectron2 --data DATA --out BUNDLE`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.dataset import add_reading_options, reading_fields
from LiverMarginLib.commands.phantom import add_label_names
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import Cancelled, InputError
from LiverMarginLib.events import Event, Metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from LiverMarginLib.jobs.train import TrainJob
    from LiverMarginLib.training.profiles import PROFILES

    parser.add_argument("model", choices=sorted(PROFILES), help="the network")
    parser.add_argument("--profile", help="shipped settings: paper, robust, small, ... (default: robust, or the first)")
    parser.add_argument("--data", default="", help="data set; without it phantoms are made and trained on")
    parser.add_argument("--out", required=True, help="folder of the bundle that the training ends in")
    parser.add_argument("--init", metavar="BUNDLE", help="start from this model's weights, as far as they fit")
    parser.add_argument("--work", help="folder of checkpoint, log and curves (default: OUT.training)")
    parser.add_argument("--cache", help="folder of decoded slices and phantoms, to share between trainings")
    parser.add_argument("--split", help="split.json of `livermargin dataset split`")
    parser.add_argument("--fold", type=int, help="which fold of a k-fold split is left for testing")
    parser.add_argument("--with-phantoms", action="store_true", help="train on phantoms beside the data set")
    parser.add_argument(
        "--data-weight",
        type=float,
        default=TrainJob.data_weight,
        help="share of the data set's slices in the loss, such as 0.5 for drawn labels (default: %(default)s)",
    )
    parser.add_argument(
        "--phantoms", type=int, default=TrainJob.phantoms, help="number of phantom patients (default: %(default)s)"
    )
    parser.add_argument(
        "--phantoms-without-liver",
        type=int,
        default=TrainJob.phantoms_without_liver,
        metavar="N",
        help="further ones, of the chest or pelvis alone",
    )
    parser.add_argument(
        "--phantoms-from-labels", metavar="FILE", help="further ones with the organs of this label map, deformed"
    )
    add_label_names(parser)
    parser.add_argument(
        "--phantoms-with-its-organs",
        type=int,
        default=TrainJob.phantoms_with_its_organs,
        metavar="N",
        help="how many these are (default: %(default)s)",
    )
    parser.add_argument(
        "--validation-phantoms",
        type=int,
        default=TrainJob.validation_phantoms,
        help="others, to validate on (default: %(default)s)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; repeatable")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float, help="validate and stop when this time is used up")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--deterministic", action="store_true", help="same seed, same machine, same weights")
    parser.add_argument("--resume", action="store_true", help="continue the training in --work")
    parser.add_argument("--modality", choices=("CT", "MR"), default="CT", help="of the training images")
    parser.add_argument(
        "--target", choices=("liver", "cancer", "liver+cancer"), help="volumetric networks: what is learnt"
    )
    parser.add_argument("--name", help="of the bundle (default: its folder's)")
    parser.add_argument("--description", default="", help="a sentence for the model card")
    parser.add_argument("--single", action="store_true", help="store single instead of half precision")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    add_phantom_options(parser)
    add_lesion_options(parser)
    parser.add_argument(
        "--phantom-random-contrast",
        type=float,
        default=TrainJob.phantom_random_contrast,
        metavar="SHARE",
        help="of their scans, to have intensities that no scanner gives (default: %(default)s)",
    )
    add_reading_options(parser)


def add_phantom_options(parser: argparse.ArgumentParser) -> None:
    """Declare the size of phantoms."""
    parser.add_argument(
        "--phantom-shape", type=int, nargs=3, metavar=("K", "J", "I"), help="voxels (default: what suits the network)"
    )
    parser.add_argument("--phantom-spacing", type=float, nargs=3, metavar=("K", "J", "I"), help="mm")


def add_lesion_options(parser: argparse.ArgumentParser) -> None:
    """Declare the lesions of phantoms."""
    parser.add_argument("--phantom-lesions", type=int, help="lesions of each liver (default: none in half of them)")
    parser.add_argument("--phantom-lesion-mm", type=float, nargs=2, metavar=("MIN", "MAX"), help="their radius")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Train and say where the bundle is."""
    from LiverMarginLib.jobs.train import TrainJob
    from LiverMarginLib.training.profiles import default_profile

    settings = dict(setting(text) for text in options.set)
    short = {
        "epochs": options.epochs,
        "max_minutes": options.minutes,
        "seed": options.seed,
        "device": options.device,
        "deterministic": "true" if options.deterministic else None,
    }
    settings |= {key: str(value) for key, value in short.items() if value is not None}
    job = TrainJob(
        **reading_fields(options),
        model=options.model,
        profile=options.profile or default_profile(options.model),
        out=options.out,
        initial=options.init,
        work=options.work,
        cache=options.cache,
        split=options.split,
        fold=options.fold,
        with_phantoms=options.with_phantoms,
        data_weight=options.data_weight,
        phantoms=options.phantoms,
        phantoms_without_liver=options.phantoms_without_liver,
        phantoms_from_labels=options.phantoms_from_labels,
        label_names=tuple(options.label_names),
        phantoms_with_its_organs=options.phantoms_with_its_organs,
        validation_phantoms=options.validation_phantoms,
        phantom_shape=tuple(options.phantom_shape) if options.phantom_shape else None,
        phantom_spacing=tuple(options.phantom_spacing) if options.phantom_spacing else None,
        phantom_lesions=options.phantom_lesions,
        phantom_lesion_mm=tuple(options.phantom_lesion_mm) if options.phantom_lesion_mm else None,
        phantom_random_contrast=options.phantom_random_contrast,
        settings=settings,
        resume=options.resume,
        modality=options.modality,
        target=options.target,
        name=options.name,
        description=options.description,
        half=not options.single,
        overwrite=options.overwrite,
    )
    curves = _Curves(terminal)
    terminal.listeners.append(curves.hear)
    result = terminal.run(job)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in result["scores"].items())
    terminal.result(
        result,
        [
            f"{result['ending']} after {result['epochs']} epochs, {result['steps']} steps, {result['minutes']} min",
            f"best epoch {result['best_epoch']}: {scores}",
            f"log, curves and checkpoint: {result['folder']}",
            f"bundle: {result['bundle'] or 'not yet; go on with --resume'}",
        ],
    )
    return Cancelled.exit_code if result["ending"] == "stopped" else 0


class _Curves:
    """Prints one line for each epoch that was validated."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._step = -1
        self._values: list[str] = []

    def hear(self, event: Event) -> None:
        if not isinstance(event, Metric):
            return
        if event.step != self._step and self._values:
            self._terminal.note(f"epoch {self._step}: {', '.join(self._values)}")
            self._values = []
        self._step = event.step
        self._values.append(f"{event.series} {event.metric} {event.value:.4g}".strip())


def setting(text: str) -> tuple[str, str]:
    """Split ``KEY=VALUE``; raises `InputError` where it is not one."""
    key, found, value = text.partition("=")
    if not found or not key:
        raise InputError(f"A setting is written KEY=VALUE, and {text!r} is not.")
    return key, value
