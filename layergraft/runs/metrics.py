"""metrics.jsonl: one object a logged step, no step twice and none missing, also after a kill."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from layergraft.runs.atomic import write_text, writing
from layergraft.runs.json_files import read_json_lines

_SLOWEST, _LARGEST = 1e-9, 1e300  # images a second; any number of a row


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
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")

    def to_disk(self) -> None:
        """Lines must be as safe as the checkpoint that comes after them."""
        if self.path.is_file():
            with writing(self.path), open(self.path, "rb") as file:
                os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; a bad line costs itself alone."""
    return read_json_lines(path, _is_row)


def _is_row(row: dict[str, Any]) -> bool:
    """Whether a line is a step of a stage: all but the stage's name are numbers, or null where they were not finite."""
    step, speed = row.get("step"), row.get("images_per_second", 1.0)
    return (
        isinstance(row.get("stage"), str)
        and isinstance(step, int)
        and isinstance(speed, int | float)
        and speed > _SLOWEST
        and all(name == "stage" or value is None or _is_number(value) for name, value in row.items())
    )


def _is_number(value: object) -> bool:
    """Whether a value is a number that can be reckoned with: NaN, infinity and endless digits are damage."""
    return isinstance(value, int | float) and -_LARGEST < value < _LARGEST


def training_seconds(rows: list[dict[str, Any]], batch_size: int) -> float:
    """Training time, also over interruptions: each row says how fast the steps since the one before were."""
    timed = [row for row in rows if "images_per_second" in row]  # a damaged line may have lost it
    steps = [0, *(int(row["step"]) for row in timed)]
    rates = [float(row["images_per_second"]) for row in timed]
    return sum((b - a) * batch_size / rate for a, b, rate in zip(steps, steps[1:], rates, strict=False))
