"""The loop: one stage, from its first step or its last checkpoint to its end."""

from __future__ import annotations

from collections.abc import Callable

from lightning_fabric import Fabric

from layergraft.training.guard import BadSteps, SignalGuard, agree
from layergraft.training.record import Record, Report
from layergraft.training.stage_run import StageRun
from layergraft.training.state import Checkpoints
from layergraft.training.trainer import Trainer


def train_stage(fabric: Fabric, stage: StageRun, report: Report, warn: Callable[[str], None]) -> None:
    """Train a stage to its end; encoder, objective and ema hold the result.

    Args:
        fabric: launched.
        stage: what to train.
        report: called with each row of the metrics and the number of steps of the stage.
        warn: called with a sentence that the user should see.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: the run diverged or the disk is full.
    """
    checkpoints = Checkpoints(stage.directory / "checkpoints", stage.engine, warn)
    trainer = Trainer(fabric, stage)
    state = checkpoints.newest()
    if state:
        trainer.restore(state)
    else:
        trainer.begin()
    bad = BadSteps()
    record = Record(stage, trainer.step, report, fabric.is_global_zero)
    with SignalGuard() as signals, record:
        batches = stage.loader.batches(trainer.step, stage.steps)
        while trainer.step < stage.steps:
            outcome, numbers = trainer.compute(record.next(batches)), trainer.numbers
            finite, stop, due = agree(outcome.size, signals.received is not None, checkpoints.due(trainer.step + 1))
            if bad.accept(finite, stage.name, trainer.step):
                trainer.accept(outcome)
            else:
                trainer.reject()
            record.step(trainer, outcome, numbers)
            if (stop or due or trainer.step == stage.steps) and fabric.is_global_zero:
                checkpoints.save(trainer.step, trainer.state())
            if stop and trainer.step < stage.steps:
                raise signals.stopped()
