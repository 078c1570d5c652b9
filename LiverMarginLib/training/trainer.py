"""The trainer: one loop for every network, that can be stopped at any step and goes on to the same weights.

    result = train(profile("unet", "robust"), source_train, source_val, on_event)

A training lives in a folder (`TrainConfig.out`): ``checkpoint.pt`` (everything, one file), ``best.safetensors``,
``log.csv``, ``curves.png``, ``manifest.json``. Started by ``torchrun``, the same call trains in several processes, of
which the first one writes and speaks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from LiverMarginLib.errors import InputError, LiverMarginError, ResourceError, technical
from LiverMarginLib.events import CancelToken, Metric, Notice, OnEvent, Progress, ignore
from LiverMarginLib.inference.devices import available_threads
from LiverMarginLib.training import checkpoint, curves
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.data import Source, check_split, usable_slices
from LiverMarginLib.training.determinism import deterministic_algorithms, seed_everything, weights_hash
from LiverMarginLib.training.distributed import Group, check_batch, process_group
from LiverMarginLib.training.engine import choose_device
from LiverMarginLib.training.interruption import stopping_on_signals
from LiverMarginLib.training.loader import Batch, BatchLoader, SampleOrder
from LiverMarginLib.training.manifest import run_manifest, write_manifest
from LiverMarginLib.training.result import Ending, TrainResult
from LiverMarginLib.training.state import Keeper, TrainingState
from LiverMarginLib.training.task import Task, build_task
from LiverMarginLib.training.validation import Validation

_LOG = logging.getLogger(__name__)
_MOST_WORKERS = 8
_SECONDS_BETWEEN_EVENTS = 0.5
_SECONDS_BETWEEN_FIGURES = 30.0  # drawing one takes about half a second


def train(
    config: TrainConfig,
    source_train: Source,
    source_val: Source | None = None,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
) -> TrainResult:
    """Train a network.

    Parameters
    ----------
    config : TrainConfig
    source_train, source_val : Source
        Slices or volumes, as the network takes them, of different patients. Without any for the validation the last
        weights are the best ones.
    on_event : callable
        Hears `Progress` (stages ``train`` and ``validate``), `Metric` (series ``train`` and ``validation``, at every
        epoch) and `Notice`.
    cancel : CancelToken, optional
        Stops after the present step, as do SIGINT and SIGTERM; the training is saved and can be resumed.

    Returns
    -------
    TrainResult
        Also of a training that was stopped; `TrainResult.ending` tells.

    Raises
    ------
    InputError
        If the settings or the data cannot be used, a slice or volume cannot be read, or the loss is no longer a number.
    ResourceError
        If the disk is full or the memory too small. In both cases the checkpoint is intact.
    """
    task = build_task(config)
    check_split(source_train, source_val)
    token = cancel or CancelToken()
    with (
        _threads(config.threads),
        deterministic_algorithms(config.deterministic),
        process_group(config.device in ("auto", "cuda") and torch.cuda.is_available()) as group,
        stopping_on_signals(token),
    ):
        check_batch(config.batch, group)
        return _Trainer(config, task, source_train, source_val, on_event, token, group).run()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Trainer:
    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        source_train: Source,
        source_val: Source | None,
        on_event: OnEvent,
        cancel: CancelToken,
        group: Group,
    ) -> None:
        self._config = config
        self._task = task
        self._source = source_train
        self._group = group
        self._on_event = on_event if group.is_main else ignore
        self._cancel = cancel
        self._folder = Path(config.out)
        seed_everything(config.seed, 0)  # the same initial weights in every process
        self._order = SampleOrder(usable_slices(source_train, config.unannotated_as_empty), config.seed)
        if len(self._order) == 0:
            raise InputError("None of the training slices was annotated; annotate some or count them as empty.")
        self._steps_per_epoch = config.steps_per_epoch or max(1, len(self._order) // config.batch)
        self._total_steps = config.epochs * self._steps_per_epoch
        self._device = choose_device(config.device, group)
        self._engine = task.engine(self._device, group, self._total_steps)
        self._workers = _workers(config.workers, self._device, group)
        self._validation = None
        if source_val is not None and len(source_val):
            self._validation = Validation(task, source_val, self._engine, group, config, self._workers)
        seed_everything(config.seed, group.rank)
        self._state = TrainingState()
        self._keeper = Keeper(config, self._steps_per_epoch, group, self._device)
        self._manifest = run_manifest(config, source_train, source_val, self._device, group)
        self._started = time.monotonic()
        self._last_event = self._last_save = -math.inf
        self._last_figure = time.monotonic()
        self._board: Any = None

    def run(self) -> TrainResult:
        resumed = self._resume()
        if self._config.tensorboard and self._group.is_main:
            self._board = curves.open_tensorboard(self._folder, len(self._state.history) + 1)
        if not resumed and self._group.is_main:
            write_manifest(self._folder, self._manifest)
        self._last_save = time.monotonic()
        try:
            ending = self._learn()
        finally:
            if self._board is not None:
                self._board.close()
        return self._finish(ending)

    # -- the loop

    def _learn(self) -> Ending:
        state, config = self._state, self._config
        ending = None
        if self._epoch_is_over():
            ending = self._after_epoch()
        elif state.history:
            ending = self._ending(self._time_is_up())
        steps = self._order.steps(state.step, self._total_steps, config.batch, self._group.rank, self._group.world)
        pin = self._device.type == "cuda"
        read = partial(self._task.read_training, self._source)
        with BatchLoader(read, steps, self._workers, config.prefetch, pin) as batches:
            while ending is None:
                batch, failure = _next(batches)
                stop, failed, save = self._group.any((self._cancel.cancelled, failure is not None, self._save_is_due()))
                if failed or stop or save:
                    self._save()
                if failed:
                    raise failure or InputError("Another process of this training failed; see its message.")
                if stop:
                    return Ending.STOPPED
                assert batch is not None
                state.add(self._engine.step(batch.to(self._device), state.step))
                state.step += 1
                self._tell_progress()
                if self._epoch_is_over():
                    ending = self._after_epoch()
        return ending

    def _epoch_is_over(self) -> bool:
        """Whether all steps of an epoch are done whose row is not in the history yet."""
        return self._state.step == (len(self._state.history) + 1) * self._steps_per_epoch

    def _after_epoch(self) -> Ending | None:
        """Score the epoch and save; return why the training should end now, if it should."""
        state, config = self._state, self._config
        epoch = len(state.history) + 1
        self._check_finite()
        time_is_up = self._time_is_up()
        due = epoch >= config.epochs or epoch % config.validate_every == 0 or time_is_up
        row = {"epoch": float(epoch), "step": float(state.step)}
        row["learning_rate"] = self._engine.learning_rate.set(max(0, state.step - 1))
        train_scores = self._task.training_scores(self._totals())
        row |= {f"train_{name}": value for name, value in train_scores.items()}
        if config.schedule.plateau_on_loss:
            self._engine.learning_rate.report(-train_scores["loss"])
        if self._validation is None:
            self._keep_best(epoch, {}, {})
        elif due:
            totals = self._validation.run(self._on_event, self._cancel)
            if totals is None:
                self._save()
                return Ending.STOPPED
            row |= self._judge(epoch, totals)
        row["seconds"] = self._elapsed()
        state.history.append(row)
        state.sums = {}
        self._save()
        self._tell_epoch(row)
        return self._ending(time_is_up)

    def _ending(self, time_is_up: bool) -> Ending | None:
        """Return why the training is over after the epochs that are done, if it is."""
        if len(self._state.history) >= self._config.epochs:
            return Ending.FINISHED
        patience = self._config.early_stopping
        if patience is not None and self._state.since_best >= patience:
            return Ending.EARLY
        return Ending.TIME if time_is_up else None

    def _elapsed(self) -> float:
        return self._state.seconds + time.monotonic() - self._started

    def _time_is_up(self) -> bool:
        if self._config.max_minutes is None:
            return False
        (up,) = self._group.any((self._elapsed() >= 60 * self._config.max_minutes,))
        return up

    def _judge(self, epoch: int, totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        scores = self._task.validation_scores(totals)
        score = scores[self._task.monitor]
        if math.isnan(score):
            self._on_event(Notice("The validation patients cannot be scored, for they show nothing to find."))
            score = -math.inf
        if not self._config.schedule.plateau_on_loss:
            self._engine.learning_rate.report(score)
        if not self._state.best or score > self._state.best["score"]:
            self._state.since_best = 0
            self._keep_best(epoch, scores, self._task.thresholds(totals), score)
        else:
            self._state.since_best += 1
        return {f"validation_{name}": value for name, value in scores.items()}

    def _keep_best(
        self, epoch: int, scores: Mapping[str, float], thresholds: Mapping[str, float], score: float = 0.0
    ) -> None:
        self._state.best = {
            "epoch": epoch,
            "score": score,
            "scores": dict(scores),
            "thresholds": dict(thresholds),
            "weights": self._engine.weights(),
        }

    def _totals(self) -> dict[str, np.ndarray]:
        return self._group.sum({name: value.cpu().numpy() for name, value in self._state.sums.items()})

    def _check_finite(self) -> None:
        loss = self._state.sums.get("loss")
        (bad,) = self._group.any((loss is not None and not math.isfinite(float(loss)),))
        if bad:
            raise InputError(
                f"The loss is no longer a number in epoch {len(self._state.history) + 1}; lower the learning rate and "
                "start again, or resume from the checkpoint."
            )

    # -- files

    def _save_is_due(self) -> bool:
        if self._config.checkpoint_steps is not None:
            return self._state.step > 0 and self._state.step % self._config.checkpoint_steps == 0
        return time.monotonic() - self._last_save >= 60 * self._config.checkpoint_minutes

    def _save(self) -> None:
        self._check_finite()
        now = time.monotonic()
        self._state.seconds += now - self._started
        self._started = self._last_save = now
        self._keeper.save(self._state, self._engine)

    def _resume(self) -> bool:
        """Take up the training in the folder, if there is one to take up."""
        state = self._keeper.load(self._engine, self._on_event)
        if state is None:
            return False
        self._state = state
        return True

    def _finish(self, ending: Ending) -> TrainResult:
        state = self._state
        best = state.best
        digest = weights_hash(best["weights"] if best else self._engine.weights())
        path = self._folder / checkpoint.BEST_WEIGHTS if best else None
        if self._group.is_main:
            if path is not None:
                checkpoint.save_weights(
                    path, best["weights"], {"model": self._config.model, "epoch": str(best["epoch"]), "sha256": digest}
                )
            self._write_history(draw=True)
            results = {
                "ending": ending.value,
                "epochs": len(state.history),
                "steps": state.step,
                "seconds": state.seconds,
                "best_epoch": best.get("epoch"),
                "scores": best.get("scores", {}),
                "thresholds": best.get("thresholds", {}),
                "weights_sha256": digest,
            }
            write_manifest(self._folder, {**self._manifest, "results": results})
        return TrainResult(
            ending=ending,
            folder=self._folder,
            epochs=len(state.history),
            steps=state.step,
            best_epoch=best.get("epoch"),
            scores=best.get("scores", {}),
            thresholds=best.get("thresholds", {}),
            weights=path,
            weights_sha256=digest,
            history=tuple(state.history),
            seconds=state.seconds,
        )

    def _write_history(self, draw: bool) -> None:
        if not self._state.history:
            return
        curves.write_log(self._folder, self._state.history)
        if draw:
            self._last_figure = time.monotonic()
            curves.draw_curves(
                self._folder / curves.CURVES,
                self._state.history,
                self._task.monitor,
                self._task.training_monitor,
                self._state.best.get("epoch"),
            )

    # -- events

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if not self._group.is_main or now - self._last_event < _SECONDS_BETWEEN_EVENTS:
            return
        self._last_event = now
        sums = self._state.sums
        loss = float(sums["loss"] / sums["n"])
        epoch = min(self._config.epochs, len(self._state.history) + 1)
        message = f"epoch {epoch} of {self._config.epochs}, loss {loss:.4f}"
        self._on_event(Progress(self._state.step, self._total_steps, "train", message))

    def _tell_epoch(self, row: Mapping[str, float]) -> None:
        if not self._group.is_main:
            return
        self._write_history(draw=time.monotonic() - self._last_figure > _SECONDS_BETWEEN_FIGURES)
        epoch = int(row["epoch"])
        for key, value in row.items():
            series, _, name = key.partition("_")
            if series not in ("train", "validation"):
                continue
            if self._board is not None:
                self._board.add_scalar(f"{name}/{series}", value, epoch)
            if math.isfinite(value):
                self._on_event(Metric(name, value, epoch, series))
        self._on_event(Progress(self._state.step, self._total_steps, "train", f"epoch {epoch} done"))


def _next(batches: BatchLoader) -> tuple[Batch | None, LiverMarginError | None]:
    """Return the next batch, or why there is none; every process must hear of a failure before any of them raises."""
    try:
        return next(batches), None
    except LiverMarginError as error:
        return None, error
    except Exception as error:  # a fault of the source; the training is saved before it is shown
        _LOG.exception("reading a batch failed")
        return None, ResourceError("A slice or volume could not be read; check the data and resume.", technical(error))


def _workers(wanted: int | None, device: torch.device, group: Group) -> int:
    """Return how many processes read; on the CPU they would take from the network what they give."""
    if wanted is not None:
        return wanted
    if device.type != "cuda":
        return 0
    return max(1, min(_MOST_WORKERS, available_threads() // group.world - 1))
