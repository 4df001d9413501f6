"""What people see while it runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from layergraft.runs.readable import duration
from layergraft.runs.run_time import RunTime

PLAIN_SECONDS = 10.0


class Display:
    """Shows the progress of a run on stderr: a bar on a terminal, plain lines elsewhere.

    Args:
        quiet: print nothing (processes other than the first).
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bar = not quiet and sys.stderr.isatty()
        self._progress: Progress | None = None
        self.time: RunTime | None = None  # what was told of the whole run
        self._stage, self._last, self._began = "", 0.0, 0.0
        self._known: set[str] = set()

    def once(self, text: str) -> str | None:
        """The text the first time, then None: for what many trainings in a row have to say."""
        new = text not in self._known
        self._known.add(text)
        return text if new else None

    def say(self, text: str) -> None:
        """One line for the user."""
        self.console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> Display:
        if self.bar:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, TextColumn("{task.fields[numbers]}"), console=self.console)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def report(self, row: dict[str, Any], steps: int) -> None:
        """Show a row of the metrics."""
        now = time.monotonic()
        first = row["stage"] != self._stage
        if first:
            self._stage, self._began, self._first_step = row["stage"], now, row["step"]
            if self._progress:
                self._task = self._progress.add_task(row["stage"], total=steps, numbers="")
        numbers = f"loss {row['loss']:.3f} · {row['images_per_second']:.0f} images/s · data wait {row['data_wait']:.0%}"
        if "knn" in row:
            numbers += f" · kNN {row['knn']:.1f}"
        left = self._left(row["step"], steps, now)
        if self._progress:
            self._progress.update(self._task, completed=row["step"], numbers=numbers + left)
        elif first or now - self._last > PLAIN_SECONDS or row["step"] == steps:
            self._last = now
            self.say(f"{row['stage']} step {row['step']}/{steps} · epoch {row['epoch']:.2f} · {numbers}{left}")

    def _left(self, step: int, steps: int, now: float) -> str:
        """What is left: of the whole run where its time was told, else of the stage."""
        done = step - self._first_step
        if not done:
            return ""
        taken = now - self._began
        of_stage = taken / done * (steps - step)
        if self.time is None:
            return f" · {duration(of_stage)} left of {self._stage}"
        told = self.time.stages.get(self._stage, 0.0) * done / steps
        pace = taken / told if told else 1.0
        return f" · {duration(self.time.left(self._stage, of_stage, pace))} left of the run"
