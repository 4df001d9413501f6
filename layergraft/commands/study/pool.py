"""Processes that carry out jobs side by side, one thread each where there is no GPU.

Tensors of a small study are too small to share between cores: two processes of one thread do more than one of two. And
since a job always has one thread, its bits do not depend on how many run beside it.

Imports take seconds, as long as a small job. So the processes are forked from the command's own, which has imported
everything, where that is safe: before it has started any thread of its own or of OpenMP, and where no GPU is used.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any

from layergraft.errors import UserError
from layergraft.runs.interruption import SIGNALS, WATCH, SignalGuard, forget_guards

LOG = "jobs.log"  # in the directory of a study
PAUSE = 0.2  # seconds between two looks at what is done, and at signals


def _begin() -> None:
    """What a new process does first."""
    for number in SIGNALS:  # between jobs there is nothing to save
        signal.signal(number, signal.SIG_IGN)
    forget_guards()
    threading.Thread(target=end_with_parent, daemon=True).start()
    import cv2
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _call(log: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function whose words go to the log, those of C code included, which began before there was one."""
    if getattr(sys.stdout, "name", None) != str(log):
        stream = open(str(log), "a", buffering=1)  # noqa: SIM115 - for as long as the process lives
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        sys.stdout = sys.stderr = stream
    return function(*arguments)


def end_with_parent() -> None:
    """A killed study must not leave processes that go on writing where the next one does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def start_method() -> str:
    """How processes are started: `fork` where no other thread could hold a lock, or `spawn`.

    OpenBLAS ends its threads before a fork, and begins them anew when they are needed; so they are counted after one.
    What waits for interrupts of the terminal holds nothing.
    """
    import torch

    others = [thread for thread in threading.enumerate() if thread.name not in (threading.main_thread().name, WATCH)]
    if sys.platform != "linux" or torch.cuda.is_available() or others:
        return "spawn"
    with _forking():
        child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "fork" if len(os.listdir("/proc/self/task")) == threading.active_count() else "spawn"


@contextmanager
def _forking() -> Iterator[None]:
    """Without the warning of threads, which `start_method` has looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Pool:
    """Runs functions in processes until all are done or a signal comes.

    It is entered before anything is computed: see `start_method`. What the functions need is imported by then.

    Args:
        size: how many at a time.
        log: file for what they print.
    """

    def __init__(self, size: int, log: Path) -> None:
        self.size, self._log = size, log
        self.method = start_method()
        context = multiprocessing.get_context(self.method)
        self._executor = ProcessPoolExecutor(size, mp_context=context, initializer=_begin)
        self._running: dict[Future[Any], str] = {}

    def __enter__(self) -> Pool:
        with _forking():
            self._executor.submit(os.getpid)  # all processes that are forked are so now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    @property
    def running(self) -> set[str]:
        """Names of what is being done."""
        return set(self._running.values())

    @property
    def free(self) -> int:
        """How many more can be started now."""
        return self.size - len(self._running)

    def start(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Let a process call a function of a module."""
        self._running[self._executor.submit(_call, self._log, function, *arguments)] = name

    def finished(self, signals: SignalGuard, patience: float | None = None) -> Iterator[tuple[str, Any]]:
        """Wait until something is done: (name, what the function returned).

        Args:
            signals: a guard that holds.
            patience: seconds after which to go on without; None waits for as long as it takes.

        Raises:
            Stopped: a signal came; what was running has saved its state and ended.
            UserError: of a function; what else was running has saved its state and ended.
        """
        end = None if patience is None else time.monotonic() + patience
        while not (done := self._done()):
            if signals.received is not None:
                self._stop()
                raise signals.stopped(signals.requeue)
            if end is not None and time.monotonic() >= end:
                return
        for future in done:
            name = self._running.pop(future)
            error = future.exception()
            if error is not None or signals.received is not None:
                self._stop()
                if signals.received is not None:  # a terminal tells all processes
                    raise signals.stopped(signals.requeue)
                if isinstance(error, UserError):
                    raise UserError(f"{name}: {error.problem}", error.hint)
                if isinstance(error, BrokenProcessPool):
                    raise UserError(
                        "A process of the study was killed, perhaps for want of memory.",
                        "What was finished is saved. Run the same command again, with fewer --jobs.",
                    )
                assert error is not None
                raise error
            yield name, future.result()

    def _done(self) -> set[Future[Any]]:
        if not self._running:  # of nothing, nothing is done
            time.sleep(PAUSE)
            return set()
        return wait(self._running, timeout=PAUSE, return_when=FIRST_COMPLETED).done

    def _stop(self) -> None:
        """Have everything that runs save its state and end."""
        while True:
            for process in multiprocessing.active_children():
                process.terminate()  # again and again: what has not begun its job yet takes no notice
            if not wait(self._running, timeout=1.0).not_done:
                break
        self._running.clear()
