"""Signals that stop a command: noted when they come, acted on at set places.

An exception that a handler raises appears inside whatever happens to run: C++ code drops it, and readers that take any
failure for a damaged file make one of it. So the handler only takes a note, and long work calls `check` between two of
its parts.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from types import FrameType, TracebackType

from layergraft.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_GRACE = 3.0  # seconds from a second SIGINT until a process that hangs in C code is ended
WATCH = "layergraft-interrupts"  # name of the thread that counts them
FORCED = 128 + signal.SIGINT  # the exit code of a shell for what SIGINT ended


@dataclass
class _Note:
    """What this process knows of signals.

    Args:
        received: the last one.
        guards: how many guards are around what runs.
        holds: how many of them let `check` do nothing.
        before: signal -> handler before the outermost guard.
    """

    received: int | None = None
    guards: int = 0
    holds: int = 0
    before: dict[int, object] = field(default_factory=dict)


_note = _Note()


def check() -> None:
    """End here if a signal came; long work calls it wherever it has just kept what it had.

    Raises:
        Stopped: a signal came, and no loop is running that asks by itself.
    """
    if _note.received is not None and not _note.holds:
        raise _stopped(_requeue())


def forget_guards() -> None:
    """In a process that has just been forked: the guards of its parent are not around what it does."""
    signal.set_wakeup_fd(-1)  # its pipe counts the interrupts of the parent
    _note.received = None
    _note.guards = _note.holds = 0
    _note.before.clear()


def _requeue() -> bool:
    return _note.received in (signal.SIGUSR1, signal.SIGUSR2)


def _stopped(requeue: bool) -> Stopped:
    name = signal.Signals(_note.received).name if _note.received else "a signal to another process"
    return Stopped(f"Stopped by {name}; everything is saved. Run the same command again to go on.", requeue)


def _take(number: int, frame: FrameType | None) -> None:
    """The handler."""
    again = number == signal.SIGINT and _note.received == signal.SIGINT
    _note.received = number
    if again:
        raise KeyboardInterrupt


class SignalGuard:
    """Context manager that notes SIGTERM, SIGINT, SIGUSR1 and SIGUSR2, so that work stops at the next `check`.

    A second SIGINT raises KeyboardInterrupt. Guards may be nested; the outermost one takes the signals, and gives them
    back to whom they belonged before.

    Args:
        hold: `check` does nothing inside; a loop asks for `received` by itself, and stops between two steps.
        force: a second SIGINT ends the process also where it hangs in C code, such as an exchange with a process that
            is gone.
    """

    def __init__(self, *, hold: bool = False, force: bool = False) -> None:
        self.hold, self.force = hold, force
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> SignalGuard:
        if _note.guards == 0:
            _note.received = None
            try:
                for number in SIGNALS:
                    _note.before[number] = signal.signal(number, _take)
                if self.force:
                    self._watch()
            except ValueError:  # signals belong to the main thread; elsewhere the caller keeps them
                _note.before.clear()
        _note.guards += 1
        _note.holds += self.hold
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _note.guards -= 1
        _note.holds -= self.hold
        try:
            if error is None and self.hold:  # it came after the loop had asked for the last time
                check()
        finally:
            if _note.guards == 0:
                self._give_back(forced=isinstance(error, KeyboardInterrupt))

    def _give_back(self, forced: bool) -> None:
        for number, handler in _note.before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        _note.before.clear()
        _note.received = None
        if self._pipe is not None and not forced:  # what was forced to end may still hang at its end
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])

    def _watch(self) -> None:
        """Count SIGINTs in a thread: a handler in Python waits until C code returns, the byte in a pipe does not."""
        self._pipe = os.pipe()
        reading, writing = self._pipe
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

        def count() -> None:
            interrupts = 0
            while interrupts < 2:
                byte = os.read(reading, 1)
                if not byte:
                    os.close(reading)
                    return
                interrupts += byte[0] == signal.SIGINT
            time.sleep(_GRACE)
            os._exit(FORCED)

        threading.Thread(target=count, daemon=True, name=WATCH).start()

    @property
    def received(self) -> int | None:
        """The signal that came last, or None."""
        return _note.received

    @property
    def requeue(self) -> bool:
        """SIGUSR1 and SIGUSR2 are how a scheduler announces the end of the time; SIGTERM is a person's cancel."""
        return _requeue()

    def stopped(self, requeue: bool) -> Stopped:
        """The exception that ends the run."""
        return _stopped(requeue)
