"""What may interrupt a run: signals, and steps that must not be applied."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

import torch
import torch.distributed as dist
from torch import Tensor

from layergraft.errors import Stopped, UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class SignalGuard:
    """Notes signals while a stage runs; the loop asks between steps. A second SIGINT forces."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __enter__(self) -> SignalGuard:
        try:
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:  # signals belong to the main thread; elsewhere the caller keeps them
            self._previous.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def stopped(self) -> Stopped:
        name = signal.Signals(self.received).name if self.received else "a signal to another process"
        return Stopped(f"Stopped by {name}; everything is saved. Run the same command again to go on.")


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


class BadSteps:
    """Counts steps in a row whose loss or gradient is not finite."""

    LIMIT = 3

    def __init__(self) -> None:
        self.in_a_row = 0

    def accept(self, finite: bool, stage: str, step: int) -> bool:
        """Whether the step may be applied.

        Raises:
            UserError: too many in a row were not finite.
        """
        self.in_a_row = 0 if finite else self.in_a_row + 1
        if self.in_a_row >= self.LIMIT:
            raise UserError(
                f"Stage {stage!r} diverged: {self.LIMIT} steps in a row up to {step} had no finite loss or gradient.",
                "None was applied; the last checkpoint is kept. Lower optimizer.base_lr or lengthen warmup_epochs.",
            )
        return finite
