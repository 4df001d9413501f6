"""How long a stage was trained, from the rows of its metrics."""

from __future__ import annotations

import json
from pathlib import Path

from layergraft.runs.metrics import read_metrics, training_seconds


def test_a_damaged_line_costs_itself_alone(tmp_path: Path) -> None:
    """A line that has lost a key is still JSON: it says nothing of the time, and the next one counts for both."""
    rows = [{"stage": "graft", "step": step, "loss": 1.0, "images_per_second": 20.0} for step in (1, 2, 3)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_seconds(read_metrics(file), 10) == 1.5
    for key in ("images_per_second", "step", "loss", "stage"):
        damaged = [*rows[:1], {name: value for name, value in rows[1].items() if name != key}, rows[2]]
        file.write_text("".join(json.dumps(row) + "\n" for row in damaged))
        assert training_seconds(read_metrics(file), 10) == 1.5
