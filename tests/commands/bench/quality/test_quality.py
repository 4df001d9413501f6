"""`bench quality`: what is counted, what is done in which order, and what is said of it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from pool_here import Here
from two_classes import write_two_classes

from layergraft.commands.bench.quality import jobs as jobs_module
from layergraft.commands.bench.quality import run as run_module
from layergraft.commands.bench.quality.core_seconds import CoreSeconds
from layergraft.commands.bench.quality.figures import core_seconds_to
from layergraft.commands.bench.quality.plan import Job, JobOutcome, Method, Plan
from layergraft.commands.bench.quality.recipes import fitted
from layergraft.commands.cli import main
from layergraft.commands.study.accuracy import SeedImages
from layergraft.config import EvaluateConfig, Recipe, dump_recipe, load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.runs.cpu_time import cpu_seconds
from layergraft.training.trainer import Trainer

SMALL = {
    "stages.mae.batch_size": 16,
    "stages.graft.batch_size": 16,
    "data.holdout": 12,
    "evaluate.splits": 2,
    "data.cache": "disk",
}


@pytest.fixture(scope="module", autouse=True)
def _operations() -> Iterator[None]:
    """Counting the operations of a stage takes longer than training it here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layergraft.training.run.step_flops", lambda *_: 0)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_classes(tmp_path_factory.mktemp("images"), {"train": 30, "val": 8})


@pytest.fixture(scope="module")
def recipe(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "small.yaml"
    file.write_text(dump_recipe(load_recipe("fashion_paper", TINY | SMALL | {"data.source": str(images)})))
    return file


def words_of(recipe: Path, budgets: list[str], out: Path) -> list[str]:
    """One seed, no rivals."""
    words = ["bench", "quality", "--recipes", str(recipe), "--seeds", "1", "--rivals", "none", "--out", str(out)]
    return [*words, "--budgets", *budgets]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(run_module, "Pool", Here)
    monkeypatch.setattr(Here, "done", [])
    return Here.done


def test_the_whole_of_it(recipe: Path, here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two budgets: both are kept, tests come last and once, and a second start trains nothing."""
    out = tmp_path / "quality"
    words = words_of(recipe, ["0.1", "0.2"], out)
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((out / "quality.json").read_text()) == first
    small, random, pixels = first["methods"]
    assert [point["budget"] for point in small["points"]] == [0.1, 0.2]
    for point in small["points"]:
        assert point["core_seconds"] > 0
        assert set(point["test"]) == {"5", "knn"}
        assert set(point["steps"]) == {"mae", "graft"}
    assert [len(floor["points"]) for floor in (random, pixels)] == [1, 1]
    assert {row["over"] for row in first["leads"]} == {"random", "pixels"}
    assert first["machine"]["threads"] == 1
    assert all(name.endswith(".test") for name in here[-4:])
    assert not any(name.endswith(".test") for name in here[:-4])
    assert not [*out.rglob("step-*.pt"), *out.rglob("cache")]
    here.clear()
    assert main(words) == 0
    again = capsys.readouterr()
    assert "nothing to do" in again.err
    assert json.loads(again.out.splitlines()[-1]) == first
    assert here == []
    assert main([*words, "--budgets", "0.1", "0.15", "0.2"]) == 0  # what is there is not trained again
    assert here == ["small/0.15/seed-0", "small/0.15/seed-0.test"]


def test_another_recipe_of_this_name_is_refused(
    recipe: Path, here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality"
    words = words_of(recipe, ["0.1"], out)
    (out / "outcomes" / "small").mkdir(parents=True)
    (out / "settings.json").write_text("{}")
    assert main(words) == 2
    assert "holds another study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--budgets", "0"], "above 0"),
        (["--seeds", "0"], "at least one seed"),
        (["--rivals", "simcrl"], "simclr"),
        (["--recipes", "fashion_paper", "fashion_paper"], "two recipes"),
        (["--recipes", "fashion_paper", "vit_base_imagenet"], "names no images"),
    ],
)
def test_what_cannot_be_measured_is_said(changes: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "quality", *changes]) == 2
    assert said in capsys.readouterr().err


def test_too_few_images_are_said_before_anything_is_trained(
    recipe: Path, images: Path, tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        for name in ("dark", "light"):
            shutil.copytree(images.parent / part / name, tmp_path / part / name)
    for file in sorted((tmp_path / "train" / "dark").iterdir())[4:]:
        file.unlink()
    out = tmp_path / "quality"
    assert main([*words_of(recipe, ["1"], out), "--data", str(tmp_path / "train")]) == 2
    assert "accuracy of 5 labels a class" in capsys.readouterr().err
    assert not out.exists()
    assert here == []


def test_processes_below_count_while_they_run_and_when_they_have_ended() -> None:
    """Work is counted by the amount of it, not by how long the machine takes."""
    busy = "import time, sys\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\nsys.stdin.read()"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-S", "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = cpu_seconds() - before
    ended = cpu_seconds() - before
    assert ended >= running - 0.05
    assert running > 0.45  # of the child alone; this process has waited
    assert ended < 10


def test_a_signal_keeps_the_count_and_a_kill_voids_it(tmp_path: Path) -> None:
    counted = CoreSeconds(tmp_path / "seconds.json")

    def stopped() -> None:
        with counted.of("mae"):
            sum(range(10**6))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    kept = counted.total
    assert kept > 0
    again = CoreSeconds(counted.file)
    assert not again.lost
    assert again.total == kept
    with again.of("mae"):
        killed = CoreSeconds(counted.file)
    assert killed.lost
    assert killed.total == 0
    assert CoreSeconds(counted.file).total > kept


def test_a_training_that_is_stopped_goes_on_with_its_count(
    recipe: Path, here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM in the middle of a stage ends with 75; the next start takes the checkpoint and the count."""
    out, accept, calls = tmp_path / "quality", Trainer.accept, [0]
    words = words_of(recipe, ["0.3"], out)
    pilot_steps = 2 * 16

    def told(self: Trainer, outcome: Any) -> None:
        calls[0] += 1
        if calls[0] == pilot_steps + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        accept(self, outcome)

    monkeypatch.setattr(Trainer, "accept", told)
    assert main(words) == 75
    assert capsys.readouterr().err.count("Stopped by SIGTERM") == 1
    counted = json.loads((out / "runs/small/0.3/seed-0.seconds.json").read_text())
    assert not counted["at_work"]
    assert list(counted["seconds"]) == ["mae"]
    here.clear()
    assert main(words) == 0
    assert "small/pilot" not in here
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["methods"][0]["points"][0]["core_seconds"] > counted["seconds"]["mae"]
    made = sum(figures["methods"][0]["points"][0]["steps"].values())
    assert calls[0] == pilot_steps + made  # no step twice


def test_evaluation_is_not_counted(
    recipe: Path, here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A measurement of ten core-seconds more, by a clock that says so, changes no count."""
    from layergraft.commands.bench.quality import core_seconds, recipes

    now = [0.0]

    def step(self: Any, outcome: Any, accept: Any = None) -> None:
        now[0] += 0.01
        original(self, outcome)

    original = Trainer.accept
    monkeypatch.setattr(Trainer, "accept", step)
    for module in (core_seconds, recipes):
        monkeypatch.setattr(module, "cpu_seconds", lambda: now[0])
    measure = SeedImages.few_labels

    def slow(self: SeedImages, *arguments: Any) -> Any:
        now[0] += 10
        return measure(self, *arguments)

    monkeypatch.setattr(SeedImages, "few_labels", slow)
    words = words_of(recipe, ["0.1", "0.2"], tmp_path / "quality")
    assert main(words) == 0
    points = json.loads(capsys.readouterr().out.splitlines()[-1])["methods"][0]["points"]
    for point in points:
        assert point["core_seconds"] == pytest.approx(0.01 * sum(point["steps"].values()))
        assert point["core_seconds"] == pytest.approx(point["budget"], abs=0.011)


def test_few_labels_are_measured_as_everywhere(recipe: Path) -> None:
    images = SeedImages(load_recipe(recipe))
    encoder = create_encoder(images.recipe.encoder, 0, images.data.mean, images.data.std).eval()
    for measured in (encoder, None):
        config = EvaluateConfig(protocols=("logistic",), shots=(5,), splits=3)
        assert images.few_labels(measured, config) == images.frozen(measured, config, test=False)["holdout"]


def plan(rates: tuple[float, ...] = (1.0,)) -> Plan:
    recipe = load_recipe("fashion_paper")
    methods = [
        Method(name="ours", kind="recipe", recipe=recipe),
        Method(name="theirs", kind="rival", recipe=recipe, rates=rates),
        Method(name="pixels", kind="floor", recipe=recipe),
    ]
    return Plan(methods=methods, budgets=[60, 240], seeds=[0, 1], evaluate=EvaluateConfig())


def play(made: Plan, test: float = 50.0) -> tuple[list[Job], dict[str, JobOutcome]]:
    """All jobs with made-up outcomes: held-out accuracy falls with the rate."""
    done: list[Job] = []
    outcomes: dict[str, JobOutcome] = {}
    while job := next(made.due(outcomes), None):
        done.append(job)
        found = {"per_step": {"mae": 0.1, "graft": 0.2}, "holdout": {"5": 40 - abs(job.rate - 2)}, "core_seconds": 1.0}
        outcomes[job.name] = found | ({"test": {"5": test, "knn": test}} if job.kind == "test" else {})
    return done, outcomes


def test_methods_take_turns_and_tests_come_last() -> None:
    done, _ = play(plan())
    points = [job.name for job in done if job.kind == "point"]
    assert points == [
        *("ours/60/seed-0", "theirs/60/seed-0", "ours/240/seed-0", "theirs/240/seed-0"),
        *("theirs/60/seed-1", "ours/60/seed-1", "theirs/240/seed-1", "ours/240/seed-1"),
    ]
    assert [job.kind for job in done[-10:]] == ["test"] * 10
    assert "test" not in [job.kind for job in done[:-10]]


def test_a_rate_is_searched_for_each_budget_on_held_out_images_alone() -> None:
    made = plan(rates=(0.5, 1.0, 2.0, 4.0))
    done, outcomes = play(made)
    assert play(made, test=10.0)[0] == done
    trials = [job for job in done if job.kind == "trial"]
    assert [job.rate for job in trials] == [0.5, 1.0, 2.0, 4.0] * 2
    assert {job.budget for job in trials} == {20.0, 80.0}
    assert {job.rate for job in done if job.kind == "point" and job.method.name == "theirs"} == {2.0}
    assert made.left({}) == 2 * 2 * 300 + 4 * 100
    assert made.left(outcomes) == 0


def test_a_recipe_is_fitted_with_its_warm_up() -> None:
    recipe: Recipe = load_recipe("fashion_paper")
    per_step = {"mae": 0.05, "graft": 0.06}
    lengths = {}
    for budget in (60.0, 120.0):
        made = fitted(recipe, per_step, budget, 58_000)
        steps = {name: stage.total_steps(58_000 // stage.batch_size) for name, stage in made.stages.items()}
        assert sum(steps[name] * per_step[name] for name in steps) == pytest.approx(budget, rel=0.01)
        warm = made.stages["mae"].total_warmup_steps(58_000 // 128)
        assert warm == pytest.approx(steps["mae"] / 10, abs=1)
        lengths[budget] = steps
    assert lengths[120.0]["mae"] == pytest.approx(2 * lengths[60.0]["mae"], abs=2)


@pytest.mark.parametrize(
    ("target", "seconds", "how"),
    [
        (30.0, 60.0, "at_most"),
        (45.0, math.sqrt(60 * 240), "between"),
        (50.0, 240.0, "between"),
        (51.0, None, "not_reached"),
    ],
)
def test_core_seconds_to_a_target(target: float, seconds: float | None, how: str) -> None:
    found = core_seconds_to(target, [(60.0, 40.0), (240.0, 50.0)])
    assert found["how"] == how
    assert found["core_seconds"] == (None if seconds is None else pytest.approx(seconds))


def test_a_job_that_was_found_with_another_recipe_is_refused(tmp_path: Path) -> None:
    made = plan()
    file = jobs_module.outcome_file(tmp_path, "ours/pilot")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"identity": "of another", "per_step": {}}))
    with pytest.raises(UserError, match="found with another 'ours'"):
        jobs_module.read_outcomes(made, tmp_path)


@pytest.mark.slow
def test_a_call_that_is_told_to_stop_goes_on(recipe: Path, tmp_path: Path) -> None:
    """With processes of their own: 75 within a training, then 0, and what was counted before is in the figures."""
    pytest.importorskip("lightly")
    out = tmp_path / "quality"
    words = [sys.executable, "-m", "layergraft", *words_of(recipe, ["1", "2"], out), "--rates", "1", "--jobs", "2"]
    words[words.index("none")] = "simclr"
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = [out / "runs" / method / "2" / "seed-0.seconds.json" for method in ("small", "lightly-simclr")]
    while first.poll() is None and not any(file.is_file() for file in begun):
        time.sleep(0.05)
    first.terminate()
    _, errors = first.communicate()
    assert first.returncode == 75, errors
    assert errors.count("Stopped by SIGTERM") == 1
    counts = [json.loads(file.read_text()) for file in begun if file.is_file()]
    assert counts
    assert not any(count["at_work"] for count in counts)
    second = subprocess.run(words, capture_output=True, text=True, check=True)
    figures = json.loads(second.stdout.splitlines()[-1])
    assert [method["name"] for method in figures["methods"]] == ["small", "lightly-simclr", "random", "pixels"]
    for method in figures["methods"][:2]:
        assert [point["budget"] for point in method["points"]] == [1, 2]
    assert "lightly" in figures["packages"]
    assert "pilot" not in second.stderr
