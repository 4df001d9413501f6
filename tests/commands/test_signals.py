"""A signal at any place of any command: exit code 75, one message, and the same command ends with the same numbers."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from conftest import TINY
from two_classes import write_two_classes

from layergraft.commands.cli import main
from layergraft.config import dump_recipe, load_recipe

# Where a run is told to stop, one start after another: a function, and the call of it at which the signal comes.
PLACES = [
    ("layergraft.commands.cli.build_parser", 1),
    ("layergraft.data.sources.folder._walk", 1),
    ("layergraft.data.sources.index.IndexBuilder.add", 1),
    ("layergraft.training.run.first_encoder", 1),
    ("layergraft.training.run.check_recipe", 1),
    ("layergraft.training.run.prepare_stage", 1),
    ("layergraft.data.sources.files.Place.read", 9),
    ("layergraft.training.trainer.Trainer.compute", 2),
    ("layergraft.training.monitor.Monitor.evaluate", 1),
    ("layergraft.training.checkpoints.write_state", 1),
    ("layergraft.training.run.save_stage", 1),
    ("layergraft.training.run.load_encoder", 1),
    ("layergraft.data.sources.files.FileImages.load", 30),
    ("layergraft.training.trainer.Trainer.accept", 1),
    ("layergraft.training.trainer.Trainer.finish", 1),
    ("layergraft.commands.train.save_encoder", 1),
    ("layergraft.evaluation.features.pool_all", 2),
    ("layergraft.evaluation.frozen.Measurement.knn", 1),
    ("layergraft.evaluation.frozen.Measurement.few_shot", 2),
    ("layergraft.commands.train.write_results", 3),
    ("layergraft.commands.train.build_subject", 1),
    ("layergraft.analysis.run.write_analysis", 1),
    ("layergraft.analysis.subject.view_batches", 1),
    ("layergraft.commands.train.write_model_card", 1),
    ("layergraft.runs.report.page.write_page", 1),
]


def signal_at(patch: pytest.MonkeyPatch, place: str, call: int) -> list[int]:
    """Send SIGTERM to this process at a call of a function, which then does its work; returns the calls seen."""
    parts = place.split(".")
    split = next(n for n in range(len(parts) - 1, 0, -1) if _is_module(".".join(parts[:n])))
    owner: Any = importlib.import_module(".".join(parts[:split]))
    for name in parts[split:-1]:
        owner = getattr(owner, name)
    function, calls = getattr(owner, parts[-1]), [0]

    def told(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    patch.setattr(owner, parts[-1], told)
    return calls


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def told_to_stop(words: list[str], place: str, call: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls = signal_at(patch, place, call)
        code = main(words)
    errors = capsys.readouterr().err
    assert calls[0] >= call, f"{place} was called {calls[0]} times"
    assert code == 75, f"{place}: {code}\n{errors}"
    assert "Traceback" not in errors
    assert errors.count("Stopped by SIGTERM") == 1


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_classes(tmp_path_factory.mktemp("images"), {"train": 40, "val": 8})


@pytest.fixture(scope="module")
def words(images: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    changes = {"data.source": str(images), "data.holdout": 16, "data.workers": 0, "stages.mae.epochs": 5}
    small = {"stages.graft.epochs": 6, "engine.checkpoint_steps": 1, "stages.mae.batch_size": 16}
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(dump_recipe(load_recipe("fashion_paper", TINY | changes | small)))
    return ["train", "--recipe", str(file)]


@pytest.fixture(scope="module")
def undisturbed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are computed in each test."""
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(tmp_path / "cache"))


def numbers(run: Path) -> list[Any]:
    """Results, analyses, metrics and skipped images, without times."""
    without = {"seconds", "images_per_second", "data_wait", "time"}
    results = json.loads((run / "results.json").read_text()) + json.loads((run / "analysis.json").read_text())
    for file in sorted(run.glob("stages/*/metrics.jsonl")):
        results += [json.loads(line) for line in file.read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in without} for row in results]
    return [*sorted(kept, key=lambda row: json.dumps(row, sort_keys=True)), (run / "skipped.jsonl").exists()]


def test_a_run_that_is_told_to_stop_everywhere(
    words: list[str], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for place, call in PLACES:
        told_to_stop([*words, "--out", str(out)], place, call, capsys)
    assert main([*words, "--out", str(out)]) == 0
    assert numbers(out) == numbers(undisturbed)
    for file in undisturbed.rglob("*.safetensors"):
        assert (out / file.relative_to(undisturbed)).read_bytes() == file.read_bytes()
    assert (out / "report.html").is_file()


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(undisturbed, tmp_path / "run")


@pytest.mark.parametrize(
    ("place", "call", "kept"),
    [
        ("layergraft.commands.evaluate.load_encoder", 1, 0),
        ("layergraft.evaluation.features.pool_all", 1, 2),  # the pixels
        ("layergraft.evaluation.frozen.Measurement.few_shot", 1, 3),
        ("layergraft.evaluation.frozen.Measurement.few_shot", 2, 3),
    ],
)
def test_evaluate_keeps_what_was_finished(
    run: Path, images: Path, place: str, call: int, kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", "--encoder", str(run), "--data", str(images), "--protocols", "knn", "logistic"]
    words += ["--shots", "1", "--splits", "1"]
    told_to_stop([*words, "--out", str(out)], place, call, capsys)
    rows = json.loads((out / "results.json").read_text()) if kept else []
    assert len(rows) >= kept
    assert main([*words, "--out", str(out)]) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "whole"))
    assert [row | {"seconds": 0} for row in first] == [row | {"seconds": 0} for row in second]


def test_embed(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "features.parquet"
    words = ["embed", "--encoder", str(run), "--data", str(images), "--out", str(file)]
    told_to_stop(words, "layergraft.commands.embed.open_source", 1, capsys)
    assert not file.exists()
    assert main(words) == 0
    assert len(pyarrow.parquet.read_table(file)) == 80


def test_analyze_keeps_what_was_finished(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["analyze", "--encoder", str(run), "--data", str(images), "--what", "spectrum", "rank"]
    words += ["--out", str(tmp_path / "out")]
    told_to_stop(words, "layergraft.analysis.run.write_analysis", 1, capsys)
    assert [row["analysis"] for row in json.loads((tmp_path / "out" / "analysis.json").read_text())] == ["spectrum"]
    assert main(words) == 0


@pytest.mark.parametrize("call", [1, 7, 20, 80, 150])
def test_pack_goes_on_at_the_shard(images: Path, call: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pack", "--data", str(images), "--shard-images", "16", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    told_to_stop([*words, str(tmp_path / "out")], "tarfile.TarFile.addfile", call, capsys)
    if call > 32:
        assert main([*words[:3], "--shard-images", "8", "--out", str(tmp_path / "out")]) == 2
    assert main([*words, str(tmp_path / "out")]) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir() if path.suffix == ".tar"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix == ".tar"} == whole
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*whole, "shards.index"}
    assert main([*words, str(tmp_path / "out")]) == 2  # a finished one is not written over


def test_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    told_to_stop(["report", str(run)], "layergraft.runs.report.page.read_runs", 1, capsys)
    assert not (run / "report.html").exists()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("place", ["load_encoder", "_write_timm", "_difference"])
def test_export_leaves_nothing(run: Path, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "exports" / "encoder"
    words = ["export", "--encoder", str(run), "--format", "timm", "--out", str(out)]
    told_to_stop(words, f"layergraft.commands.export.{place}", 1, capsys)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    assert main(words) == 0
    assert (out / "config.json").is_file()


def test_plan(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told_to_stop(["plan", *words[1:]], "layergraft.commands.plan.load_data", 1, capsys)


def test_what_was_finished_when_the_signal_came_is_finished(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, "layergraft.runs.report.page.write_page", 1)
        assert main(["report", str(run)]) == 0


@pytest.fixture(autouse=True)
def no_handler_is_left() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before
