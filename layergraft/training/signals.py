"""What ends a step or a run early, agreed on by all of its processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from layergraft.encoders.distributed import is_distributed
from layergraft.errors import Lost, Stopped, UserError
from layergraft.runs.lock import is_first_process
from layergraft.training.rendezvous import tell_all


def is_loss(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process is gone. gloo is known by the source file that it names."""
    return dist.is_available() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


@contextmanager
def losses_named(saved: Callable[[], object]) -> Iterator[None]:
    """Around what exchanges with other processes: say that one is gone.

    Args:
        saved: gives what is saved.

    Raises:
        Lost: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise Lost(
            f"Another process of this run is gone ({str(error).splitlines()[0]}). Saved: {saved()}.\n"
            "Where torchrun does not start the run again by itself, run the same command again to go on."
        ) from None


@contextmanager
def together() -> Iterator[None]:
    """What may fail in some processes alone: all end where one does, instead of waiting for it; all processes call.

    Nothing inside may wait for the other processes.

    Raises:
        UserError: that of another process.
        Stopped: another process got a signal, or failed in another way.
    """
    failure: Exception | Stopped | None = None
    try:
        yield
    except (Exception, Stopped) as error:
        failure = error
    if is_distributed():
        told = tell_all(_as_told(failure))
        failure = failure or next((one for one in told if one is not None), None)
    if failure is not None:
        raise failure


def _as_told(failure: Exception | Stopped | None) -> Exception | Stopped | None:
    """What the other processes end with where one of them fails."""
    if failure is None:
        return None
    if isinstance(failure, UserError):  # not one of a kind, whose arguments are others
        return UserError(failure.problem, failure.hint)
    if isinstance(failure, Stopped):
        return Stopped(str(failure), failure.requeue)
    return Lost("Another process of this run failed; its message says why.")


class Agreed(NamedTuple):
    """What all processes do after a step.

    Args:
        finite: whether loss and gradient are finite in every process.
        stop: whether any process got a signal.
        requeue: whether a scheduler asked any of them for it.
        save: whether a checkpoint is due.
        write_failed: whether a checkpoint could not be written.
        too_many_unreadable: whether any process met too many unreadable images.
    """

    finite: bool
    stop: bool
    requeue: bool
    save: bool
    write_failed: bool
    too_many_unreadable: bool


def agree(
    size: Tensor, *, stop: bool, requeue: bool, save: bool, write_failed: bool, too_many_unreadable: bool
) -> Agreed:
    """Agree with all other processes on what follows a step, in one exchange.

    Args:
        size: finite exactly if this process's step is.
        stop: whether this process got a signal; the others as in `Agreed`, as this process sees them.
        requeue: see `Agreed`.
        save: see `Agreed`.
        write_failed: see `Agreed`.
        too_many_unreadable: see `Agreed`.
    """
    finite = bool(torch.isfinite(size))
    wishes = (stop, requeue, save, write_failed, too_many_unreadable)
    if not is_distributed():
        return Agreed(finite, *wishes)
    shared = torch.tensor([not finite, *wishes], dtype=torch.uint8, device=size.device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    not_finite, *wished = map(bool, shared.tolist())
    return Agreed(not not_finite, *wished)


def requeue() -> str | None:
    """Put this process's Slurm job back into the queue.

    Returns:
        A sentence about it; None outside Slurm, and in all processes but the first.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not is_first_process():
        return None
    words = ["scontrol", "requeue", job]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        return f"Job {job} could not be requeued: {str(reason).strip()} Submit it again to go on."
    return f"Job {job} is back in the queue."
