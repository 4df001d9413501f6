"""metrics.jsonl: one object a logged step, no step twice and none missing, also after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layergraft.checkpoints.atomic import write_text


class MetricsFile:
    """Args:
    path: the file.
    step: lines of later steps than this one are from before a kill and are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - `close` ends it

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that a kill cut off is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
