"""What may interrupt a run: signals, and steps that must not be applied."""

from __future__ import annotations

import os
import signal
import subprocess
from types import FrameType, TracebackType

import torch
import torch.distributed as dist
from torch import Tensor

from layergraft.errors import Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class SignalGuard:
    """Takes the signals of a run. A second SIGINT forces.

    Args:
        wait: only note a signal, and leave it to the loop to ask between steps. Otherwise (before the first step, in
            the evaluation) everything is saved already, and a signal stops the run at once.
    """

    def __init__(self, *, wait: bool) -> None:
        self.wait = wait
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if not self.wait:
            raise self.stopped(self.requeue)

    def __enter__(self) -> SignalGuard:
        try:
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._take)
        except ValueError:  # signals belong to the main thread; elsewhere the caller keeps them
            self._previous.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if error is None and self.received is not None:  # it came after the loop had asked for the last time
            raise self.stopped(self.requeue)

    @property
    def requeue(self) -> bool:
        """SIGUSR1 and SIGUSR2 are how a scheduler announces the end of the time; SIGTERM is a person's cancel."""
        return self.received in (signal.SIGUSR1, signal.SIGUSR2)

    def stopped(self, requeue: bool) -> Stopped:
        """The exception that ends the run."""
        name = signal.Signals(self.received).name if self.received else "a signal to another process"
        return Stopped(f"Stopped by {name}; everything is saved. Run the same command again to go on.", requeue)


def is_loss(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process is gone. gloo is known by the source file that it names."""
    return dist.is_available() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def agree(size: Tensor, *wishes: bool) -> list[bool]:
    """What all processes do after a step, in one exchange.

    Args:
        size: finite exactly if this process's step is.
        wishes: what this process would like.

    Returns:
        Whether the step is finite everywhere, and for each wish whether any process has it.
    """
    finite = bool(torch.isfinite(size))
    if not (dist.is_available() and dist.is_initialized()):
        return [finite, *wishes]
    shared = torch.tensor([not finite, *wishes], dtype=torch.uint8, device=size.device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    bad, *wished = map(bool, shared.tolist())
    return [not bad, *wished]


def requeue() -> str | None:
    """Put this process's Slurm job back into the queue.

    Returns:
        A sentence about it; None outside Slurm, and in all processes but the first.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return None
    words = ["scontrol", "requeue", job]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        return f"Job {job} could not be requeued: {str(reason).strip()} Submit it again to go on."
    return f"Job {job} is back in the queue."
