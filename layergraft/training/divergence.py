"""When steps keep coming out without a finite loss or gradient: go back, go around, and in the end stop.

Each such step is thrown away. After three in a row the stage goes back to its last checkpoint and takes the batches
after the spot; after two such returns it stops and leaves a file with which the three steps can be run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layergraft.errors import UserError
from layergraft.runs.readable import counted
from layergraft.training.checkpoints import Checkpoints, State, host_copy, read_state, write_state
from layergraft.training.signals import together
from layergraft.training.trainer import Trainer

MAX_REJECTED_IN_A_ROW = 3
MAX_ROLLBACKS = 2


class Diverged(UserError):
    """A stage has no finite steps, however often it goes back."""


def go_back(trainer: Trainer, checkpoints: Checkpoints) -> str:
    """Return to the last checkpoint, with the batches advanced past the bad spot.

    Returns:
        A sentence about it.

    Raises:
        Diverged: it has returned too often; a replay file is left.
    """
    stage, bad = trainer.stage, trainer.step
    past = bad + trainer.skipped_batches
    steps = f"{bad - MAX_REJECTED_IN_A_ROW + 1} to {bad}"
    if trainer.rollbacks == MAX_ROLLBACKS:
        file = _write_replay(trainer, past, checkpoints.writes)
        raise Diverged(
            f"Stage {stage.name!r} diverged: steps {steps} had no finite loss or gradient, after "
            f"{MAX_ROLLBACKS} returns to a checkpoint.",
            "None of them was applied; the checkpoints are kept. Look at the steps with the same command and "
            f"--replay {file}; then lower optimizer.base_lr or lengthen warmup_epochs, in another --out.",
        )
    with together():
        checkpoints.wait()
    newest = checkpoints.newest(settled=True)
    assert newest is not None, "a stage saves before its first step"
    rollbacks = trainer.rollbacks + 1
    trainer.restore(newest[1])
    trainer.skipped_batches = past - trainer.step
    trainer.rollbacks = rollbacks
    trainer.rejected = 0
    checkpoints.save(trainer.state())
    checkpoints.drop_after(trainer.step)
    return (
        f"Steps {steps} of stage {stage.name} had no finite loss or gradient: it goes back to step {trainer.step} and "
        f"leaves out the {counted(trainer.skipped_batches, 'batch')} up to there (return {rollbacks} of "
        f"{MAX_ROLLBACKS})."
    )


def _write_replay(trainer: Trainer, past: int, writes: bool) -> Path:
    loader = trainer.stage.loader
    spots = []
    for step in range(past - MAX_REJECTED_IN_A_ROW, past):
        epoch, keys = loader.keys(step)
        parts = [keys.tolist()]
        if loader.world_size > 1:
            gathered: list[list[int]] = [[]] * loader.world_size
            dist.all_gather_object(gathered, parts[0])
            parts = gathered
        spots.append({"step": step, "epoch": epoch, "keys": [key for part in parts for key in part]})
    state = {
        "stage": trainer.stage.name,
        "seed": loader.random.seed,
        "batches": spots,
        "state": host_copy(trainer.state()),
    }
    return write_state(trainer.stage.directory, "replay", state) if writes else trainer.stage.directory


def read_replay(path: Path) -> State:
    """The content of a replay file.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"There is no replay file {str(path)!r}.", "The message of the diverged run names it.")
    replay = read_state(path)
    if replay is None:
        raise UserError(f"The replay file {str(path)!r} is damaged.", "Its content does not match its name.")
    if missing := {"stage", "seed", "batches", "state"} - replay.keys():
        raise UserError(
            f"{str(path)!r} is no replay file: it lacks {', '.join(sorted(missing))}.",
            "The message of the diverged run names it.",
        )
    return replay


def replay_steps(trainer: Trainer, replay: State) -> tuple[list[str], bool]:
    """Compute the recorded steps again, one after another as they were, and apply none.

    Returns:
        A line for each step (its losses, the first layer whose output and the rows whose gradient are not finite), and
        whether any step is still not finite.
    """
    trainer.restore(replay["state"])
    lines, still = [], False
    for spot in replay["batches"]:
        batch = trainer.stage.loader.batch(spot["step"], trainer.skipped_batches)
        if batch.keys.tolist() != spot["keys"]:
            raise UserError(
                f"The batch of step {spot['step']} has other images than the recorded one.",
                "Replay with the same recipe and data, in one process.",
            )
        with _FirstBad(trainer.gradients.step) as first:
            outcome = trainer.compute(batch)
        rows = [name for name, parameters in trainer.rows.items() if not _has_finite_gradients(parameters)]
        losses = ", ".join(f"{name} {float(value):.6g}" for name, value in outcome.losses.items())
        keys = f"{counted(len(spot['keys']), 'image')}, keys {', '.join(map(str, spot['keys'][:8]))}"
        bad = f"first bad output: {first.name or 'none'}; bad gradients: {', '.join(rows) or 'none'}"
        lines.append(f"batch {spot['step']} (epoch {spot['epoch']}, {keys} …): {losses}; {bad}")
        still = still or not bool(torch.isfinite(outcome.size))
        trainer.optimizer.zero_grad(set_to_none=True)
    return lines, still


def _has_finite_gradients(parameters: Iterable[nn.Parameter]) -> bool:
    return all(bool(torch.isfinite(p.grad).all()) for p in parameters if p.grad is not None)


class _FirstBad:
    """Finds the first module whose output is not finite."""

    def __init__(self, module: nn.Module) -> None:
        self.name = ""
        self._hooks = [
            part.register_forward_hook(lambda _module, _inputs, output, name=name: self._see(name, output))
            for name, part in module.named_modules()
            if name
        ]

    def _see(self, name: str, output: object) -> None:
        if not self.name and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
            self.name = name

    def __enter__(self) -> _FirstBad:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
