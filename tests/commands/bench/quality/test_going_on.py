"""`bench quality`, started again with other words or after files were removed, says nothing of what is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from pool_here import Here

from layergraft.commands.bench.quality import jobs as jobs_module
from layergraft.commands.bench.quality import rival_loop
from layergraft.commands.bench.quality import run as run_module
from layergraft.commands.bench.quality.jobs import outcome_file
from layergraft.commands.bench.quality.plan import Job, JobOutcome
from layergraft.commands.bench.quality.recipes import train_recipe
from layergraft.commands.bench.quality.rival_loop import train_rival
from layergraft.commands.cli import main
from layergraft.commands.study.accuracy import SeedImages
from layergraft.config import Recipe, dump_recipe, load_recipe
from layergraft.errors import Stopped
from layergraft.runs.layout import stage_directory

SMALL = {"data.source": "builtin:fashion-canvas?fraction=0.01", "encoder.depth": 2, "data.holdout": 40}
SHORT = {"stages.mae.epochs": 1, "stages.graft.epochs": 1, "stages.graft.plan.lr_scale": 1.0}


DONE: list[str] = []
"""Names of the jobs that were played."""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("fashion_paper", TINY | SMALL | SHORT)


def played(job: Job, out: Path) -> JobOutcome:
    """Of no training: the higher the rate the better, and a test says which rate it has tested."""
    DONE.append(job.name)
    if job.kind == "pilot":
        return {"per_step": {"train": 1.0}}
    if job.kind == "test":
        rate = json.loads(outcome_file(out, job.of).read_text()).get("rate", 0.0)
        return {"holdout": {"5": rate, "knn": rate}, "test": {"5": rate, "knn": rate}}
    found: JobOutcome = {"holdout": {"5": 10 * job.rate}, "rate": job.rate}
    return found if job.kind == "floor" else found | {"core_seconds": job.budget, "per_step": {"train": 1.0}}


@pytest.fixture
def words(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pytest.importorskip("lightly")
    monkeypatch.setattr(run_module, "Pool", Here)
    DONE.clear()
    monkeypatch.setattr(jobs_module, "_DO", dict.fromkeys(jobs_module._DO, played))
    file = tmp_path / "small.yaml"
    file.write_text(dump_recipe(recipe))
    words = ["bench", "quality", "--recipes", str(file), "--seeds", "1", "--rivals", "simclr", "--budgets", "3"]
    return [*words, "--out", str(tmp_path / "quality"), "--rates", "1", "2"]


def figures_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(words) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return figures


def test_more_rates_test_anew_what_is_trained_with_another(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """4 is better than 2: what was tested is gone. 0.5 is not: nothing but its trial is done."""
    assert figures_of(words, capsys)["methods"][1]["points"][0]["test"]["5"] == 2
    DONE.clear()
    figures_of([*words, "0.5"], capsys)
    assert DONE == ["lightly-simclr/3/rate-0.5"]
    point = figures_of([*words, "0.5", "4"], capsys)["methods"][1]["points"][0]
    assert point["holdout"]["5"] == 40
    assert point["test"]["5"] == 4


def test_another_target_is_answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the first recipe reaches is the target again where none is given any more; nothing else changes."""
    given = figures_of([*words, "--target", "5"], capsys)
    DONE.clear()
    usual = figures_of(words, capsys)
    assert (given["target"], usual["target"]) == (5, 10)
    assert usual["target_is"].startswith("what small reaches")
    assert "--target" not in usual["command"]
    assert not DONE


@pytest.mark.parametrize(
    "changes", [["--budgets", "nan"], ["--budgets", "inf"], ["--rates", "nan"], ["--target", "nan"]]
)
def test_what_is_no_number_is_refused(
    changes: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *changes]) == 2
    assert "For instance --" in capsys.readouterr().err
    assert not (tmp_path / "quality").exists()


def test_a_recipe_called_like_a_rival_is_refused(
    words: list[str], recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lightly-simclr.yaml"
    file.write_text(dump_recipe(recipe))
    assert main([*words, "--recipes", str(file)]) == 2
    assert "another name" in capsys.readouterr().err


def test_a_recipe_counts_nothing_of_a_training_that_is_gone(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run, one of its stages or its count is removed: whatever is trained again is counted again, and only that."""
    monkeypatch.setattr("layergraft.training.run.step_flops", lambda *_: 0)
    run, count = tmp_path / "run", tmp_path / "run.seconds.json"
    count.write_text('{"at_work": false, "seconds": {"mae": 1000.0, "graft": 1000.0}}')
    _, first = train_recipe(recipe, run)
    assert first["core_seconds"] < 1000
    shutil.rmtree(stage_directory(run, recipe, "graft"))
    count.write_text('{"at_work": false, "seconds": {"mae": 7.0, "graft": 1000.0}}')
    assert 7 < train_recipe(recipe, run)[1]["core_seconds"] < 1000
    count.unlink()
    _, again = train_recipe(recipe, run)
    assert again["steps"] == first["steps"]
    assert set(again["per_step"]) == {"mae", "graft"}


@pytest.mark.parametrize("change", ["rate", "count"])
def test_a_rival_goes_on_with_what_it_knows_alone(
    change: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rate was chosen meanwhile, or its count is gone: it begins anew."""
    pytest.importorskip("lightly")
    images, calls = SeedImages(recipe), [0]

    def told() -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise Stopped("Stopped.")

    monkeypatch.setattr(rival_loop, "check", told)
    with pytest.raises(Stopped):
        train_rival("simclr", images, 1.0, 4, tmp_path / "run")
    if change == "count":
        (tmp_path / "run.seconds.json").unlink()
    train_rival("simclr", images, 2.0 if change == "rate" else 1.0, 4, tmp_path / "run")
    assert calls[0] == 2 + 3  # looked for a signal after each step but the last
