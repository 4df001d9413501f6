"""The loop: one stage, from its first step or its last checkpoint to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from layergraft.data.loader import TrainLoader
from layergraft.encoders.distributed import is_distributed
from layergraft.errors import UserError
from layergraft.runs.interruption import SignalGuard
from layergraft.training.checkpoints import Checkpoints, State
from layergraft.training.divergence import MAX_REJECTED_IN_A_ROW, MAX_ROLLBACKS, go_back
from layergraft.training.launch import Process, other_threads
from layergraft.training.profile import Profile
from layergraft.training.rendezvous import tell_all
from layergraft.training.signals import agree, together
from layergraft.training.stage import StageRun
from layergraft.training.step_log import Record, Report
from layergraft.training.trainer import Trainer

Snapshot = Callable[[Path, int], None]


def train_stage(
    process: Process,
    stage: StageRun,
    report: Report,
    say: Callable[[str], None],
    begun: Callable[[], None] = lambda: None,
    hint: Callable[[TrainLoader], str | None] | None = None,
    snapshot: Snapshot | None = None,
) -> None:
    """Train a stage to its end; encoder, objective and ema hold the result.

    Args:
        process: launched.
        stage: what to train.
        report: called with each row of the metrics and the number of steps of the stage.
        say: called with a sentence that the user should see.
        begun: called once its images were found to be those of its last checkpoint, if it has one.
        hint: what to change where it waits for images; by default options of `train`.
        snapshot: called with directory and step of each snapshot, when the stage's own modules hold the weights.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: the run diverged, the disk is full, or too many images cannot be read.
    """
    trainer = Trainer(process, stage)
    record = Record(stage, report, say, process.is_first, hint)
    checkpoints = Checkpoints(
        stage.directory / "checkpoints", stage.engine, say, process.is_first, before=record.to_disk
    )
    profile = Profile(stage.engine.profile if process.is_first else None, stage.directory / "profile.json", say)
    with SignalGuard(hold=True) as signals, checkpoints, record, profile:
        begin(trainer, checkpoints, say)
        begun()
        record.rewind(trainer.step)
        batches = trainer.batches()
        skipped, source = stage.loader.skipped, stage.loader.source
        while not stage.is_over(trainer.step):
            try:
                batch = record.next(batches)
            except UserError:  # twenty unreadable images in a row
                if process.world_size == 1:  # a state takes all processes, and the others do not know
                    checkpoints.save(trainer.state())
                raise
            outcome, numbers = trainer.compute(batch), trainer.numbers
            agreed = agree(
                outcome.size,
                stop=signals.received is not None,
                requeue=signals.requeue,
                save=checkpoints.due(trainer.step + 1),
                write_failed=checkpoints.failed(),
                too_many_unreadable=skipped.too_many(source),
            )
            if agreed.write_failed:
                checkpoints.wait()  # raises where it was written; elsewhere:
                raise UserError("Process 0 cannot write checkpoints.", "Its message says why.")
            if agreed.finite:
                trainer.accept(outcome)
            else:
                trainer.reject()
            if trainer.rejected == MAX_REJECTED_IN_A_ROW and stage.guard and trainer.rollbacks == MAX_ROLLBACKS:
                stage.guard.fall(trainer.step)
            elif trainer.rejected == MAX_REJECTED_IN_A_ROW:
                batches.close()
                say(go_back(trainer, checkpoints))
                record.rewind(trainer.step)
                batches = trainer.batches()
                continue
            record.step(trainer, outcome, numbers)
            profile.step()
            follow_guard(trainer, say)
            keep_on_the_way(trainer, checkpoints, snapshot)
            ending = agreed.stop or agreed.too_many_unreadable or stage.is_over(trainer.step)
            if ending or (agreed.save and agreed.finite):
                checkpoints.save(trainer.state())
            if agreed.too_many_unreadable:
                raise skipped.error(source)
            if agreed.stop:
                raise signals.stopped(agreed.requeue)
        batches.close()  # a guard may have left some
        trainer.finish()


def keep_on_the_way(trainer: Trainer, checkpoints: Checkpoints, snapshot: Snapshot | None) -> None:
    """Keep what is due at the trainer's step: snapshots, and the state that branches begin with.

    It comes before the step's checkpoint, with which a later start would leave a snapshot out.
    """
    for directory, step in trainer.stage.snapshots.items():
        if snapshot is not None and step == trainer.step:
            trainer.publish()
            snapshot(directory, step)
    if trainer.step == trainer.stage.decay_start:
        checkpoints.save(trainer.state(), trunk=True)


def begin(trainer: Trainer, checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
    """Take up the newest checkpoint, or make the first one.

    So there is always one to go back to, and a directory that cannot be written is found out at once.
    """
    stage, found = trainer.stage, checkpoints.newest()
    if found is None and stage.branch is not None:
        # A trunk that is running may have had one state more when another process looked.
        branch = tell_all(stage.branch)[0] if is_distributed() else stage.branch
        with together():
            state = branch.state()
            check_images(stage, state, branch.file)
        trainer.restore(state)
        say(f"Stage {stage.name} branches off at step {trainer.step} of {stage.steps}, from {branch.file}.")
        checkpoints.save(trainer.state())
        return
    if found is None and stage.config.branch is not None:
        raise UserError(
            f"All checkpoints of stage {stage.name!r} are damaged.", "Run the same command again: it branches off anew."
        )
    if found is None:
        trainer.begin()
        if stage.guard is not None:
            trainer.publish()
            stage.guard.begin(stage.encoder, stage.modules)
        checkpoints.save(trainer.state())
        return
    path, state = found
    check_images(stage, state, path)
    trainer.restore(state)
    say(f"Stage {stage.name} goes on at step {trainer.step} of {stage.steps}, from {path}.")
    if line := other_threads(f"Stage {stage.name}", state.get("threads"), trainer.device):
        say(line)


def check_images(stage: StageRun, state: State, path: Path) -> None:
    """Refuse to go on with other images than those that a state was trained on."""
    if state["data"] != stage.loader.source.fingerprint:
        raise UserError(
            f"The images of stage {stage.name!r} are not those that {path} was trained on: files came or went.",
            "Restore them, or begin a run in another --out. Nothing was changed.",
        )


def follow_guard(trainer: Trainer, say: Callable[[str], None]) -> None:
    """Carry out what the guard of a stage has decided, if anything."""
    stage = trainer.stage
    if stage.guard is None or stage.guard.act is None:
        return
    if stage.guard.act == "soften":
        trainer.return_to_kept(stage.guard)
    say(f"Stage {stage.name}, step {trainer.step}: {stage.guard.what_follows()}")
    stage.guard.act = None
