"""metrics.jsonl: one object a logged step, no step twice and none missing, also after a kill."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from layergraft.errors import UserError
from layergraft.runs.atomic import write_text


class MetricsFile:
    """Writes the rows of metrics.jsonl.

    Args:
        path: the file; it is opened for each line, so that nothing is left open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps than this one."""
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """One line; numbers that are not finite (a step that was thrown away) become null, as JSON has none."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(
                f"Cannot write {str(self.path)!r}: {error.strerror}.",
                "Free space or permissions; the checkpoints are intact. Then run the same command again.",
            ) from None

    def to_disk(self) -> None:
        """Lines must be as safe as the checkpoint that comes after them."""
        if self.path.is_file():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())


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


def training_seconds(rows: list[dict[str, Any]], batch_size: int) -> float:
    """Training time, also over interruptions: each row says how fast the steps since the one before were."""
    steps = [0, *(int(row["step"]) for row in rows)]
    rates = [float(row["images_per_second"]) for row in rows]
    return sum((b - a) * batch_size / rate for a, b, rate in zip(steps, steps[1:], rates, strict=False))
