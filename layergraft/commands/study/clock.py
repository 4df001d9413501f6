"""How long a study took, over its starts and all processes that worked on it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as


class Clock:
    """Notes when this process works on a study, in a file of its own; times in which several did count once.

    Args:
        folder: where the processes of a study keep their times.
    """

    def __init__(self, folder: Path) -> None:
        self._began = time.time()
        self.file = folder / f"{platform.node()}-{os.getpid()}-{self._began:.0f}.json"

    @property
    def seconds(self) -> float:
        """In which at least one process was at work, as far as they have said so."""
        ours = [(self._began, time.time())]
        others = [read_times(path) for path in sorted(self.file.parent.glob("*.json")) if path != self.file]
        whole, end = 0.0, 0.0
        for began, ended in sorted(others + ours):
            whole += max(0.0, ended - max(began, end))
            end = max(end, ended)
        return whole

    def save(self) -> None:
        """Note that this process still is at work."""
        write_text(self.file, f"[{self._began:.1f}, {time.time():.1f}]\n")

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()


def read_times(file: Path) -> tuple[float, float]:
    """When a process began and ended.

    Raises:
        UserError: the file is damaged.
    """
    return read_json_as(file, tuple[float, float])
