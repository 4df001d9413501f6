"""Core-seconds of a training over all its starts, with nothing counted twice or lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from layergraft.runs.atomic import write_text
from layergraft.runs.cpu_time import cpu_seconds
from layergraft.runs.json_files import read_json_as


class _Counted(TypedDict):
    at_work: bool
    seconds: dict[str, float]


class CoreSeconds:
    """Counts what parts of a training take, in a file that outlives the process.

    A signal ends a part where it stands, and its next start goes on with the count. What a kill leaves says that it was
    at work: then nobody knows what was computed since, nor where there is no file, and the training has to begin anew.

    Args:
        file: where the count is kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        known = read_json_as(file, _Counted, f"Remove {file.parent}.") if file.is_file() else None
        self.lost = known is None or known["at_work"]
        self.seconds: dict[str, float] = {} if known is None or self.lost else known["seconds"]

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(self.seconds.values())

    def forget(self, part: str) -> None:
        """Of a part that begins anew, nothing counts that it took before."""
        self.seconds.pop(part, None)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Around what counts, also where a signal ends it."""
        before, began = self.seconds.get(part, 0.0), cpu_seconds()
        self._keep(at_work=True)
        try:
            yield
        finally:
            self.seconds[part] = before + cpu_seconds() - began
            self._keep(at_work=False)

    def _keep(self, at_work: bool) -> None:
        counted = _Counted(at_work=at_work, seconds=self.seconds)
        write_text(self.file, json.dumps(counted) + "\n")
