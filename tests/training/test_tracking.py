"""Rows reach every tracker offline, a tracker that fails stops nothing, and a profile is a Chrome trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import bits, rows
from test_faults import STEPS, recipe_of, train, words_of

from layergraft.commands.cli import main
from layergraft.config.recipe import MonitorConfig
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.training.monitor import Monitor


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("untracked") / "run")


def test_tensorboard(untracked: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(tmp_path / "run", **{"engine.tracking": ["tensorboard"]})
    events = EventAccumulator(str(out / "tensorboard" / "graft")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, STEPS + 1))
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows(out)])
    assert bits(out) == bits(untracked)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = train(tmp_path / "run", **{"engine.tracking": ["mlflow"]})
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("layergraft").experiment_id
    (run,) = client.search_runs([experiment])
    history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
    assert [metric.value for metric in history] == pytest.approx([row["loss"] for row in rows(out)])
    assert run.info.status == "FINISHED"


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = train(tmp_path / "run", **{"engine.tracking": ["wandb"]})
    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert content.count(b"images_per_second") >= STEPS
    assert b"momentum" in content


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    out = train(tmp_path / "run", **{"engine.tracking": ["trackio"]})
    (name,) = [run for run in SQLiteStorage.get_runs("layergraft") if run.startswith(f"{out.name}-graft-")][-1:]
    losses = [row["loss"] for row in SQLiteStorage.get_logs("layergraft", name) if "loss" in row]
    assert losses[-STEPS:] == pytest.approx([row["loss"] for row in rows(out)])


def test_a_tracker_that_fails_stops_nothing(
    untracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layergraft.training.tracking import TRACKERS, Tracker

    class Broken(Tracker):
        def __init__(self, stage: Any) -> None:
            self.left = 3

        def log(self, numbers: dict[str, float], step: int) -> None:
            self.left -= 1
            if not self.left:
                raise ConnectionError("no network")

        def close(self) -> None:
            raise AssertionError("it was left out")

    monkeypatch.setitem(TRACKERS, "wandb", Broken)
    out = train(tmp_path / "run", **{"engine.tracking": ["wandb"]})
    assert capsys.readouterr().err.count("wandb tracks no further: ConnectionError: no network") == 1
    assert bits(out) == bits(untracked)
    assert rows(out) == rows(untracked)


def test_profile_is_a_chrome_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(tmp_path, **{"engine.profile": 2})) == 0
    file = tmp_path / "run" / "stages" / "0-graft" / "profile.json"
    assert f"Profile: {file}" in capsys.readouterr().err
    events = json.loads(file.read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"aten::addmm", "Optimizer.step#AdamW.step"} <= names
    assert sum(name == "Optimizer.step#AdamW.step" for name in (e.get("name") for e in events)) == 2


@pytest.mark.parametrize(
    ("every", "epochs", "images"),
    [(1, 10, 250), (2, 10, 500), (0, 4, 1000), (5, 4, 1000), (0.1, 10, 100), (50, 99, 2000)],
)
def test_a_look_is_held_to_a_share_of_what_was_trained(every: float, epochs: float, images: int) -> None:
    """2.5 % of the images since the last one, at least 100, at most `monitor.images`."""
    source, holdout = split_holdout(open_source("builtin:fashion-canvas"), 2000, 0)
    monitor = Monitor(MonitorConfig(every=every), source, holdout, 0, epochs)
    assert (len(source), len(monitor.train), len(monitor.holdout)) == (10_000, images, images)


def test_collapse_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source("builtin:fashion-canvas?fraction=0.01")
    monitor = Monitor(MonitorConfig(), source, source, 0, epochs=1)
    assert monitor.warnings({"feature_std": 0.1, "rankme": 20.0, "step": 3}, 100) == []
    assert monitor.warnings({"step": 3}, 100) == []
    assert "nearly alike" in monitor.warnings({"feature_std": 0.004, "rankme": 20.0}, 100)[0]
    assert "few directions" in monitor.warnings({"feature_std": 0.1, "rankme": 1.1}, 100)[0]
    train(tmp_path / "run", **{"monitor.every": 1, "monitor.min_rankme": 1000})
    said = capsys.readouterr().err
    assert "Stage graft, step 8: the features have collapsed to few directions" in said
    assert recipe_of().monitor.min_rankme == 1.5
