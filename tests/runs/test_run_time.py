"""The time of a whole run: its parts, what is left of it, and how it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layergraft.runs.run_time import RunTime, read_run_time, taken_sentence
from layergraft.training import display
from layergraft.training.display import Display

TIME = RunTime(stages={"mae": 100.0, "graft": 300.0}, evaluation=60.0, analyses=40.0)


def test_parts_make_the_whole() -> None:
    assert (TIME.training, TIME.whole) == (400, 500)
    assert TIME.sentence() == ("About 8 min 20 s in all: mae 1 min 40 s, graft 5 min, evaluation 1 min, analyses 40 s.")
    assert taken_sentence(TIME, RunTime(stages={"mae": 60.0})).endswith(", 1 min were told.")
    assert RunTime(stages={"mae": 60.0}).sentence() == "About 1 min in all: mae 1 min."


@pytest.mark.parametrize(
    ("stage", "pace", "left"),
    [("mae", 1.0, 10 + 400), ("graft", 1.0, 10 + 100), ("graft", 2.0, 10 + 200), ("graft", 50.0, 10 + 300)],
)
def test_what_is_left_of_the_whole(stage: str, pace: float, left: float) -> None:
    assert TIME.left(stage, 10, pace) == left


def test_it_is_kept(tmp_path: Path) -> None:
    assert read_run_time(tmp_path) is None
    TIME.write(tmp_path)
    assert read_run_time(tmp_path) == TIME


@pytest.mark.parametrize(("told", "said"), [(TIME, "16 min 20 s left of the run"), (None, "3 min left of mae")])
def test_progress_tells_what_is_left(
    told: RunTime | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    shown = Display()
    shown.time = told
    for step in (0, 10):  # twice as slow as told: 2 s a step of 1 s
        now = 2.0 * step
        row: dict[str, Any] = {"stage": "mae", "step": step, "epoch": 0.1, "loss": 1.0, "data_wait": 0.0}
        shown.report(row | {"images_per_second": 9.0}, 100)
    assert said in capsys.readouterr().err
