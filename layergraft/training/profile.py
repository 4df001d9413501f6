"""A profile of some steps, as a Chrome trace (open it in chrome://tracing or ui.perfetto.dev)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WARM_UP = 3


class Profile:
    """Context manager that records a few steps as a Chrome trace.

    Args:
        steps: how many are recorded, after a few of warm-up; None records nothing.
        path: the trace.
        say: called when it is written.
    """

    def __init__(self, steps: int | None, path: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self._profile: profile | None = None
        if steps is not None:
            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
            plan = schedule(wait=WARM_UP, warmup=1, active=steps, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)

    def _write(self, recorded: profile) -> None:
        recorded.export_chrome_trace(str(self.path))
        self.say(f"Profile: {self.path}")

    def step(self) -> None:
        """After each step."""
        if self._profile:
            self._profile.step()

    def __enter__(self) -> Profile:
        if self._profile:
            self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile:
            self._profile.stop()
