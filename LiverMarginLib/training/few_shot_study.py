"""How well a network learns from few subjects: k folds, and the learning curve over the number of subjects.

Every training has the same number of steps whatever the number of subjects, no subject chooses its weights (the last
ones count), and every score is that of the finished bundle on the test images' own grids.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.errors import Cancelled, InputError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent
from LiverMarginLib.inference.model import load_model
from LiverMarginLib.metrics.overlap import Overlap
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.terminology import Segment
from LiverMarginLib.training.bundling import bundle_from_training
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.few_shot import Subject, SubjectVolumes, measured, median_spacing
from LiverMarginLib.training.trainer import Ending, train
from LiverMarginLib.training.volume_data import PreparedVolumes
from LiverMarginLib.volume import LabelMap


@dataclass(frozen=True)
class Score:
    """Dice of one label of one test subject, by one training.

    Parameters
    ----------
    part : str
        ``curve`` or ``fold``.
    run : int
        Which repetition of the curve, or which fold.
    subjects : int
        That were trained on.
    subject : str
        Number of the test subject; names of patients are not written.
    label : str
        Name.
    dice : float
        Over all volumes of the subject together; nan where the label is in neither mask.
    """

    part: str
    run: int
    subjects: int
    subject: str
    label: str
    dice: float


class FewShotStudy:
    """Trains and tests on subsets of subjects.

    Parameters
    ----------
    config : TrainConfig
        The preset.
    segments : sequence of Segment
        One for each label to be learnt.
    work : Path
        Folder of the trainings; those that are there go on, or are not repeated.
    use_median_spacing : bool
        Resample to the median spacing of the training subjects instead of the preset's.
    notes : mapping
        For the model cards.
    on_event, cancel
        As for `train`.
    """

    def __init__(
        self,
        config: TrainConfig,
        segments: Sequence[Segment],
        work: Path,
        *,
        use_median_spacing: bool,
        notes: Mapping[str, Any],
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> None:
        self._config = config
        self._segments = tuple(segments)
        self._work = work
        self._use_median_spacing = use_median_spacing
        self._notes = notes
        self._on_event = on_event
        self._cancel = cancel

    def learn(self, subjects: Sequence[Subject], name: str) -> Bundle:
        """Train on `subjects`; the bundle is in the folder `name` of the work folder.

        Raises
        ------
        Cancelled
            If the training was stopped; the same call goes on with it.
        """
        source = SubjectVolumes(subjects)
        config = replace(self._config, out=str(self._work / f"{name}.training"), resume=True)
        if self._use_median_spacing:
            spacing = median_spacing(source.read(n) for n in range(len(source)))
            config = replace(config, volume=replace(config.volume, spacing=spacing))
        prepared = PreparedVolumes(source, config.volume, self._work / "prepared")
        prepared.prepare(self._on_event, self._cancel)
        samples = [prepared.read(n) for n in range(len(prepared))]
        config = measured(config, samples)
        result = train(config, prepared, None, self._on_event, self._cancel)
        if result.ending is Ending.STOPPED:
            raise Cancelled("Stopped; the same command goes on where this one was.")
        return bundle_from_training(
            result,
            config,
            self._work / name,
            name=name,
            modality=samples[0].modality,
            notes={**self._notes, "subjects": len(subjects)},
            segments=self._segments,
            onnx=False,
            overwrite=True,
        )

    def test(
        self, bundle: Bundle, tests: Sequence[tuple[str, Subject]], part: str, run: int, count: int
    ) -> list[Score]:
        """Score a bundle on numbered subjects."""
        model = load_model(bundle, device=self._config.device, threads=self._config.threads)

        def notices(event: Event) -> None:
            if isinstance(event, Notice):
                self._on_event(event)

        scores = []
        for number, subject in tests:
            overlaps = []
            for volume in subject.volumes:
                self._cancel.check()
                image, reference = volume.read()
                found = model.segment(image, None, notices, self._cancel).labels
                overlaps.append([_counts(reference, found, segment.label) for segment in self._segments])
            for segment, counts in zip(self._segments, np.sum(overlaps, axis=0), strict=True):
                dice = float(Overlap(*counts).dice())
                scores.append(Score(part, run, count, number, segment.name, dice))
        return scores


def learning_curve(
    study: FewShotStudy,
    pool: Sequence[Subject],
    tests: Sequence[Subject],
    counts: Sequence[int],
    repeats: int,
    seed: int,
    on_run: Callable[[list[Score]], None],
) -> Bundle:
    """Train on more and more subjects of `pool`, and test each time on all of `tests`.

    Smaller sets are part of the larger ones; each repetition draws another order.

    Parameters
    ----------
    study : FewShotStudy
    pool, tests : sequence of Subject
        No subject in both.
    counts : sequence of int
        Numbers of subjects, each at most that of `pool`.
    repeats : int
    seed : int
    on_run : callable
        Hears the scores of each training.

    Returns
    -------
    Bundle
        Of the first repetition's largest training.
    """
    if {subject.name for subject in pool} & {subject.name for subject in tests}:
        raise InputError("A subject is both trained and tested on; keep the two apart.")
    numbered = [(str(number), subject) for number, subject in enumerate(tests, start=1)]
    largest: Bundle | None = None
    for run in range(repeats):
        order = np.random.default_rng((seed, run)).permutation(len(pool))
        for count in sorted(set(counts)):
            bundle = study.learn([pool[n] for n in order[:count]], f"subjects-{count}-{run + 1}")
            on_run(study.test(bundle, numbered, "curve", run + 1, count))
            if run == 0:
                largest = bundle
    assert largest is not None
    return largest


def cross_validate(
    study: FewShotStudy, subjects: Sequence[Subject], folds: int, seed: int, on_run: Callable[[list[Score]], None]
) -> None:
    """Test every subject once, by a network that was trained on the subjects of the other folds.

    Raises
    ------
    InputError
        If there are fewer subjects than folds, or fewer than two folds.
    """
    if not 2 <= folds <= len(subjects):
        raise InputError(
            f"{len(subjects)} subjects cannot be divided into {folds} folds; ask for 2 to {len(subjects)}."
        )
    numbered = [(str(number), subject) for number, subject in enumerate(subjects, start=1)]
    order = np.random.default_rng(seed).permutation(len(subjects))
    for fold in range(folds):
        held_out = set(order[fold::folds].tolist())
        rest = [subject for n, subject in enumerate(subjects) if n not in held_out]
        bundle = study.learn(rest, f"fold-{fold + 1}-of-{folds}")
        on_run(study.test(bundle, [numbered[n] for n in sorted(held_out)], "fold", fold + 1, len(rest)))


def summary(scores: Sequence[Score], part: str) -> list[dict[str, Any]]:
    """Mean, standard deviation (n - 1), least and largest Dice by label and number of training subjects.

    Folds of slightly different sizes are one row. A label that is in neither mask of a subject is left out and counted.
    """
    rows = []
    chosen = [score for score in scores if score.part == part]
    keys = {(score.label, score.subjects if part == "curve" else 0) for score in chosen}
    for label, count in sorted(keys, key=lambda key: (key[0], key[1])):
        dice = np.array([s.dice for s in chosen if s.label == label and (part == "fold" or s.subjects == count)])
        known = dice[np.isfinite(dice)]
        rows.append(
            {
                "label": label,
                **({"subjects": count} if part == "curve" else {}),
                "n": len(known),
                "empty": len(dice) - len(known),
                "mean": float(known.mean()) if len(known) else float("nan"),
                "sd": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
                "min": float(known.min()) if len(known) else float("nan"),
                "max": float(known.max()) if len(known) else float("nan"),
            }
        )
    return rows


def scores_csv(scores: Sequence[Score]) -> str:
    """All single scores as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("part", "run", "training_subjects", "test_subject", "label", "dice"))
    for s in scores:
        dice = f"{s.dice:.5f}" if np.isfinite(s.dice) else ""
        writer.writerow((s.part, s.run, s.subjects, s.subject, s.label, dice))
    return text.getvalue()


def _counts(reference: LabelMap, found: LabelMap, label: int) -> tuple[int, int, int]:
    """Voxels of a label in the reference, in the prediction, and in both."""
    wanted, given = reference.mask(label), found.mask(label)
    return int(np.count_nonzero(wanted)), int(np.count_nonzero(given)), int(np.count_nonzero(wanted & given))
