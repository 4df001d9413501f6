"""The rows of metrics.jsonl: what a step was, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch

from layergraft.data.batch import Batch
from layergraft.data.cache import CachedImages
from layergraft.data.loader import TrainLoader
from layergraft.encoders.distributed import sum_over_processes, world_size
from layergraft.objectives.losses import at_least_float32
from layergraft.runs.metrics import MetricsFile
from layergraft.training.launch import available_cores
from layergraft.training.stage import StageRun
from layergraft.training.tracking import Trackers
from layergraft.training.trainer import Outcome, Trainer

Report = Callable[[dict[str, Any], int], None]


# The fraction of the time spent waiting for batches from which on a hint is given, once a stage.
MUCH_WAITING = 0.1


class Record:
    """Times the steps and writes a row now and then.

    Args:
        stage: what is trained.
        report: called with each row and the number of steps of the stage.
        say: called with a sentence that the user should see.
        writes: whether this is the process that writes.
        hint: what to change where it waits for images; None says nothing.
    """

    def __init__(
        self,
        stage: StageRun,
        report: Report,
        say: Callable[[str], None],
        writes: bool,
        hint: Callable[[TrainLoader], str | None] | None = None,
    ) -> None:
        self.stage = stage
        self.report = report
        self.say = say
        self.writes = writes
        self._hinted = not writes
        self._hint = hint or advice
        self.metrics = MetricsFile(stage.directory / "metrics.jsonl") if writes else None
        self.trackers = Trackers(stage.engine.tracking if writes else (), stage, say)
        self._restart()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.trackers.close()

    def _restart(self) -> None:
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0

    def rewind(self, step: int) -> None:
        """The stage is at a step, for the first time or again: rows of later ones are from before, and are dropped."""
        if self.metrics:
            self.metrics.rewind(step)
        self._restart()

    def to_disk(self) -> None:
        """Bring all rows to the disk."""
        if self.metrics:
            self.metrics.to_disk()

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the time it takes to come is noted."""
        asked = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - asked
        self._images += self.stage.config.batch_size
        return batch

    def step(self, trainer: Trainer, outcome: Outcome, numbers: dict[str, float]) -> None:
        """After each step: write a row where one is due.

        Args:
            trainer: after the step.
            outcome: the step.
            numbers: what the objective had to say before it.
        """
        stage, step = self.stage, trainer.step
        must = stage.objective.selection_metric is not None or stage.guard is not None
        due = stage.monitor is not None and stage.monitor.due(step, stage.steps, stage.loader.steps_per_epoch, must)
        if not (due or step % stage.engine.log_every == 0 or step == stage.steps):
            return
        elapsed = time.perf_counter() - self._began
        row: dict[str, Any] = {
            "stage": stage.name,
            "step": step,
            "epoch": round(step / stage.loader.steps_per_epoch, 4),
        }
        row |= _mean(outcome) | {"lr": trainer.lr} | numbers
        if outcome.anchor is not None:
            row["anchor"] = float(outcome.anchor)
        if outcome.gradient_norm is not None:
            row["gradient_norm"] = float(outcome.gradient_norm)
        if due and stage.monitor is not None:
            trainer.publish()
        if due and stage.monitor is not None and self.writes:
            row |= stage.monitor.evaluate(stage.encoder, stage.objective)
            stage.best.offer(step, row)
            trainer.keep_choices()
            for warning in stage.monitor.warnings(row, stage.encoder.embed_dim):
                self.say(f"Stage {stage.name}, step {step}: {warning}")
        if due and stage.guard is not None:
            row |= stage.guard.look(step, stage.encoder, stage.modules)
        row |= {
            "images_per_second": self._images / elapsed,
            "data_wait": self._waited / elapsed,
            "time": time.time(),
        }
        if row["data_wait"] > MUCH_WAITING and not self._hinted:
            self._hinted = True
            if hint := self._hint(stage.loader):
                self.say(f"Stage {stage.name} waits for images {row['data_wait']:.0%} of its time. {hint}")
        if self.metrics:
            self.metrics.write(row)
            self.trackers.log(row)
        self.report(row, stage.steps)
        self._restart()


def advice(loader: TrainLoader) -> str:
    """What to change first where training waits for images."""
    more = f"Raise --data.workers ({loader.workers} now)"
    cores = available_cores()
    if loader.source.blocks is not None:
        return f"{more}: they mostly wait for the network. Or keep what has come: --data.cache disk."
    if loader.augment == "exact":
        return "--data.augment fast makes the same views several times as fast."
    if loader.workers < cores // loader.world_size:
        return f"{more}: there are {cores} cores."
    if not isinstance(loader.source.images, CachedImages):
        return "Keep decoded images (--data.cache ram or disk), or shrink them once: layergraft pack --resize."
    return f"Images are kept already, and {loader.workers} workers use all cores."


def advice_evaluating(loader: TrainLoader) -> str:
    """The same where `evaluate` trains, which has no options of `data`: other files are what helps."""
    if loader.source.blocks is not None:
        return "They mostly wait for the network: layergraft pack keeps them on a disk of yours."
    return "Shrink them once: layergraft pack --resize."


def _mean(outcome: Outcome) -> dict[str, float]:
    """The losses, averaged over processes."""
    values = torch.stack([at_least_float32(value) for value in outcome.losses.values()])
    values = sum_over_processes(values) / world_size()
    return dict(zip(outcome.losses, values.tolist(), strict=True))
