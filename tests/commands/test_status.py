"""`status`: where a run stands, told by its files while it runs, once it is stopped, failed, killed or finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layergraft.commands.cli import main
from layergraft.config.loading import dump_recipe, load_recipe
from layergraft.errors import Lost, Stopped, UserError
from layergraft.runs.ending import ending_kept, note_finished, read_ending
from layergraft.runs.lock import is_held, locked
from layergraft.runs.run_time import RunTime
from layergraft.runs.status import read_status


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of the demo's recipe, 20 of 780 steps into its first stage, 2 seconds a step."""
    out = tmp_path / "run"
    stage = out / "stages" / "0-mae"
    stage.mkdir(parents=True)
    (out / "recipe.yaml").write_text(dump_recipe(load_recipe("fashion_paper")))
    rows: list[dict[str, Any]] = [
        {"stage": "mae", "step": step, "epoch": step / 78, "loss": 1.0, "images_per_second": 64, "time": 2.0 * step}
        for step in (10, 20)
    ]
    rows[-1] |= {"knn": 41.5, "feature_std": 0.08, "rankme": 1.2}
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def test_a_run_that_runs_tells_the_time_of_the_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunTime(stages={"mae": 780.0, "graft": 300.0}, evaluation=60.0, analyses=40.0).write(run)
    with locked(run, print):
        assert main(["status", str(run), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
    assert (printed["state"], printed["exit_code"]) == ("running", None)
    assert (printed["stage"], printed["step"], printed["steps"], printed["knn"]) == ("mae", 20, 780, 41.5)
    # 760 steps of 2 s; what comes then is twice as slow as told, like this stage.
    assert printed["seconds_left"] == pytest.approx(760 * 2 + 2 * 400)
    assert any("RankMe" in warning for warning in printed["warnings"])
    assert not is_held(run)


@pytest.mark.parametrize(
    ("error", "code", "state"),
    [
        (Stopped("Stopped by SIGTERM"), 75, "stopped"),
        (Lost("Another process is gone"), 75, "stopped"),
        (UserError("The disk is full."), 2, "failed"),
        (ValueError("a bug"), 1, "failed"),
    ],
)
def test_how_the_last_start_ended(
    run: Path, error: BaseException, code: int, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), ending_kept(run):
        raise error
    status = read_status(run)
    assert (status.state, status.exit_code) == (state, code)
    assert str(error) in status.message
    assert main(["status", str(run)]) == 0
    assert f"exit code {code}" in capsys.readouterr().out


def test_a_new_start_forgets_how_the_last_one_ended_and_a_kill_leaves_no_note(run: Path) -> None:
    with ending_kept(run):
        assert read_ending(run) is None
        assert read_status(run).state == "unfinished"
    assert read_ending(run) is not None


def test_a_finished_run_whose_note_a_kill_prevented_is_noted_once(run: Path) -> None:
    note_finished(run)
    before = (run / "ending.json").read_bytes()
    assert read_ending(run) is not None
    note_finished(run)
    assert (run / "ending.json").read_bytes() == before


def test_a_finished_run(run: Path) -> None:
    for name in ("0-mae", "1-graft"):
        (run / "stages" / name).mkdir(exist_ok=True)
        (run / "stages" / name / "plan.json").write_text("{}")
    for name in ("run.json", "report.html"):
        (run / name).write_text("{}")
    status = read_status(run)
    assert (status.state, status.exit_code, status.seconds_left, status.stage) == ("finished", 0, 0.0, "evaluation")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"stages": 3}', b"\xff"])
def test_damaged_notes_count_as_none(run: Path, content: bytes) -> None:
    for name in ("time.json", "ending.json"):
        (run / name).write_bytes(content)
    assert read_status(run).state == "unfinished"


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["time", "epoch", "knn", "rankme", "feature_std", "images_per_second", "step", "stage"])
@pytest.mark.parametrize("value", ["lost", None, "x", [1]])
def test_a_damaged_line_of_the_metrics(run: Path, key: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is gone, null, or no number costs its line or its figure, and never the answer."""
    file = run / "stages" / "0-mae" / "metrics.jsonl"
    first, last = map(json.loads, file.read_text().splitlines())
    damaged = {name: held for name, held in last.items() if name != key}
    damaged |= {} if value == "lost" else {key: value}
    file.write_text(f"{json.dumps(first)}\n{json.dumps(damaged)}\n")
    with locked(run, print):
        assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] in (10, 20)


def test_finished_stages_are_not_waited_for_again(run: Path) -> None:
    """Once a later stage has a single row, whose speed is not known yet."""
    RunTime(stages={"mae": 400.0, "graft": 1200.0}, evaluation=100.0, analyses=20.0).write(run)
    stage = run / "stages" / "1-graft"
    stage.mkdir()
    row = {"stage": "graft", "step": 1, "epoch": 0.1, "loss": 1.0, "images_per_second": 64, "time": 50.0}
    (stage / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert read_status(run).seconds_left == 1320


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "5e-324", "9" * 400, "-1", "true"])
@pytest.mark.parametrize("key", ["step", "epoch", "time", "knn", "rankme", "images_per_second", "evaluation", "mae"])
def test_numbers_that_nobody_can_reckon_with(
    run: Path, key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON of Python takes them all; each met a conversion that ended as a bug."""
    told: dict[str, Any] = {"stages": {"mae": 780.0, "graft": 300.0}, "evaluation": 60.0, "analyses": 40.0}
    rows = [json.loads(line) for line in (run / "stages" / "0-mae" / "metrics.jsonl").read_text().splitlines()]
    for place in (told, told["stages"], *rows):
        if key in place:
            place[key] = "HERE"
    (run / "time.json").write_text(json.dumps(told).replace('"HERE"', value))
    lines = "".join(json.dumps(row).replace('"HERE"', value) + "\n" for row in rows)
    (run / "stages" / "0-mae" / "metrics.jsonl").write_text(lines)
    assert main(["status", str(run)]) == 0
    assert str(run) in capsys.readouterr().out
