"""The guard of a stage: it leaves the best point on held-out images, at worst the very bits that it started from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import TINY
from processes import SMALL, bits, finish, rows, running, start, start_group, wait_for, write_recipe
from safetensors.torch import load_file

import layergraft
from layergraft.commands.cli import main
from layergraft.config import GuardConfig, Recipe, load_recipe
from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.held_out import Figures, HeldOut
from layergraft.training.guard import Guard
from layergraft.training.run_data import load_data
from layergraft.training.trainer import Outcome, Trainer

# Steps so large that features are worth nothing, but stay finite.
ABSURD = {"stages.graft.optimizer.base_lr": 30.0, "stages.graft.warmup_epochs": 0}
GUARDED: dict[str, Any] = {
    "data.source": "builtin:fashion-canvas?fraction=0.0135",
    "evaluate": None,
    "analyze": [],
    "stages.mae.epochs": 1,
    "stages.graft.epochs": 4,
    "stages.graft.guard.margin": 1.0,
}


def train(out: Path, changes: dict[str, Any]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layergraft.training.run.step_flops", lambda *parts: None)  # counting takes longer than the rest
        return layergraft.train(recipe=msgspec.to_builtins(load_recipe("fashion_paper", TINY | changes)), out=out).out


def plan_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "stages/1-graft/plan.json").read_text())
    return content


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage whose learning rate is absurd."""
    return train(tmp_path_factory.mktemp("spoiled") / "run", GUARDED | ABSURD)


def unlabelled_images(folder: Path) -> str:
    pixels = np.stack([open_source("builtin:fashion-canvas").images.load(key, 1)[..., 0] for key in range(160)])
    np.save(folder / "images.npy", pixels)
    return str(folder / "images.npy")


def test_a_ruined_stage_leaves_the_bits_it_started_from(spoiled: Path) -> None:
    stages = spoiled / "stages"
    before, after, whole = (
        (folder / "model.safetensors").read_bytes()
        for folder in (stages / "0-mae/encoder", stages / "1-graft/encoder", spoiled / "encoder")
    )
    assert before == after == whole
    guard = plan_of(spoiled)["guard"]
    assert guard["kept_step"] == 0
    assert 0 < guard["softened"] < guard["ended"]
    assert plan_of(spoiled)["steps"] == guard["ended"] < 4 * 4
    assert guard["looks"][0]["step"] == 0
    assert json.loads((stages / "1-graft/encoder/layergraft.json").read_text())["step"] == 0


def test_that_is_said_everywhere(spoiled: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sentence = plan_of(spoiled)["guard"]["sentence"]
    assert sentence.startswith("Stage graft leaves the weights that it started from: on 32 held-out images nothing")
    assert json.loads((spoiled / "run.json").read_text())["guards"] == {"graft": sentence}
    assert sentence in (spoiled / "report.html").read_text()
    logged = (spoiled / "stages/1-graft/metrics.jsonl").read_text().splitlines()
    assert any({"guard_knn", "guard_five_shot"} <= json.loads(line).keys() for line in logged)


def test_without_softening_the_first_fall_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", GUARDED | ABSURD | {"stages.graft.guard.soften": None})
    guard = plan_of(run)["guard"]
    assert guard["softened"] is None
    assert guard["ended"] == guard["looks"][-1]["step"]
    said = capsys.readouterr()
    assert "it fell on held-out images, and ends here; it leaves its start." in said.out + said.err
    assert guard["sentence"] in said.out + said.err


def test_a_diverged_stage_leaves_its_start_too(tmp_path: Path) -> None:
    """Without a guard such a run ends with 2."""
    never = {"stages.graft.optimizer.base_lr": 1e30, "stages.graft.warmup_epochs": 0}
    run = train(tmp_path / "run", GUARDED | never | {"monitor.every": 0})
    stages = run / "stages"
    before, after = (load_file(stages / name / "encoder/model.safetensors") for name in ("0-mae", "1-graft"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert plan_of(run)["guard"]["ended"] is not None


def test_without_labels_it_must_stay_near_its_start(tmp_path: Path) -> None:
    unlabelled = GUARDED | {"data.source": unlabelled_images(tmp_path)}
    far = train(tmp_path / "far", unlabelled | ABSURD)
    assert plan_of(far)["guard"]["kept_step"] == 0
    assert not plan_of(far)["guard"]["labels"]
    near = train(tmp_path / "near", unlabelled | {"stages.graft.optimizer.base_lr": 1e-6})
    guard = plan_of(near)["guard"]
    assert guard["kept_step"] == plan_of(near)["steps"]
    assert guard["ended"] is guard["softened"] is None
    assert "without labels nobody can tell" in guard["sentence"]
    assert guard["looks"][0]["agreement"] == 1
    assert all(look["agreement"] > 0.8 for look in guard["looks"])


def test_no_held_out_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = write_recipe(tmp_path / "recipe.yaml", {"data.holdout": 0, "stages.graft.guard.margin": 1.0})
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert "Stage 'graft' has a guard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_held_out_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = open_source("builtin:fashion-canvas").images
    np.save(tmp_path / "images.npy", np.stack([images.load(key, 1)[..., 0] for key in range(20)]))
    changes = {"data.source": str(tmp_path / "images.npy"), "data.holdout": 1, "stages.graft.guard.margin": 1.0}
    words = write_recipe(tmp_path / "recipe.yaml", changes | {"evaluate": None})
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert "held-out images, and there is one alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_too_few_labels_are_called_so(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("builtin:fashion-canvas?fraction=0.01")
    guard.images = HeldOut(source, source.subset(source.keys[:12]))
    assert not guard.images.labelled
    near = Figures(numbers={"rankme": 8.0}, neighbours=torch.arange(10)[None])
    looked(guard, monkeypatch, near, near)
    assert "; with so few labels nobody can tell whether it is better" in guard.summary("graft")["sentence"]


def test_heads_alone_need_no_guard(tmp_path: Path) -> None:
    """Nothing can fall; and the heads that were trained are what the next stage needs."""
    still = ["patch_embed", "positions", "tokens", "blocks.*", "norm"]
    run = train(tmp_path / "run", GUARDED | {"stages.graft.plan.freeze": still, "stages.graft.epochs": 1})
    assert plan_of(run)["guard"] is None


@pytest.fixture
def guard(tiny_recipe: Recipe) -> Guard:
    return Guard(GuardConfig(margin=2.0, agreement=0.8, soften=0.5), load_data(tiny_recipe), 0, 100)


def figures(*scores: float, knn: float = 50.0, few: float = 50.0) -> Figures:
    return Figures(numbers={"knn": knn, "five_shot": few}, scores=torch.tensor(scores, dtype=torch.float64))


def looked(guard: Guard, monkeypatch: pytest.MonkeyPatch, *points: Figures | None) -> list[str | None]:
    """What follows each of some looks."""
    line = iter(points)
    monkeypatch.setattr(guard, "_measured", lambda encoder: next(line))
    encoder: Any = torch.nn.Linear(1, 1)
    guard.begin(encoder, {"encoder": encoder})
    follows: list[str | None] = []
    for step in range(1, len(points)):
        with torch.no_grad():
            encoder.weight.fill_(step)
        guard.look(step, encoder, {"encoder": encoder})
        follows.append(guard.act)
        guard.act = None
    return follows


def test_a_process_that_is_alone_measures(guard: Guard, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rank an outer program has left in its environment."""
    monkeypatch.setenv("RANK", "3")
    guard.begin(create_encoder(tiny_recipe.encoder, 0), {})
    assert guard.kept is not None


def test_decisions(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept is the best that leads by more than chance; a fall is counted from what was kept."""
    points = [
        figures(50, 50, 50, 50),
        figures(90, 30, 50, 50),  # leads by less than its standard error
        figures(60, 61, 60, 60, knn=49),  # one figure is below the start's
        figures(60, 61, 60, 60),
        figures(59, 60, 59, 59),  # below what was kept, within the margin
        figures(57, 57, 57, 57),
        None,  # not finite
    ]
    assert looked(guard, monkeypatch, *points) == [None, None, None, None, "soften", "end"]
    assert guard.kept_step == 3
    assert float(guard.weights["encoder"]["weight"]) == 3
    assert (guard.softened, guard.ended) == (5, 6)
    assert [look["step"] for look in guard.looks] == list(range(7))


class Shifted(torch.nn.Module):
    """An encoder of one weight: a tenth of it is the part of the start's neighbours that it finds no more."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.tensor(0))

    def figures(self, encoder: Any) -> Figures | None:
        weight = float(encoder.weight.detach())
        near = torch.arange(10)[None] + round(weight)
        return Figures(numbers={"rankme": 8.0 if weight < 9 else 1.0}, neighbours=near) if weight < 99 else None


@pytest.fixture
def unlabelled(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> tuple[Guard, Shifted]:
    guard.images.labelled = False
    encoder = Shifted()
    monkeypatch.setattr(guard, "_measured", encoder.figures)
    guard.begin(encoder, {"encoder": encoder})  # type: ignore[arg-type]
    return guard, encoder


@pytest.mark.parametrize(
    ("weight", "part", "kept"),
    [
        (1.0, 1.0, 1.0),  # near: kept as it is
        (3.25, 0.75, 2.4375),  # drawn back until it shares 0.8 of the neighbours
        (16.0, 0.125, 2.0),  # the nearest that is tried
        (64.0, None, 0.0),  # even that is too far: a fall
        (99.0, None, 0.0),  # not finite
    ],
)
def test_without_labels_it_leaves_the_farthest_point_near_its_start(
    unlabelled: tuple[Guard, Shifted], weight: float, part: float | None, kept: float
) -> None:
    guard, encoder = unlabelled
    encoder.weight.data.fill_(weight)
    encoder.seen.fill_(7)
    guard.look(5, encoder, {"encoder": encoder})  # type: ignore[arg-type]
    assert float(encoder.weight.detach()) == weight  # training goes on from where it is
    assert float(guard.weights["encoder"]["weight"]) == pytest.approx(kept)
    assert (guard.act == "soften") == guard.at_start == (part is None)
    assert guard.looks[-1].get("part") == part
    assert int(guard.weights["encoder"]["seen"]) == (0 if part is None else 7)
    sentence = guard.summary("graft")["sentence"]
    assert (f"leaves {part:.0%} of the way from its start to step 5" in sentence) if part and part < 1 else True
    back = "its start" if part is None else f"{part:.0%} of the way from its start to step 5"
    assert (back in guard.what_follows()) == (part != 1)
    state = guard.state_dict()
    guard.kept_part, guard.origin = 0.0, {}
    guard.load_state_dict(state)
    assert guard.state_dict() == state
    guard.load_state_dict({key: value for key, value in state.items() if key not in ("kept_part", "origin")})
    guard.look(6, encoder, {"encoder": encoder})  # type: ignore[arg-type]
    assert guard.kept is not None
    assert guard.start is not None
    assert guard.kept.agreement(guard.start) >= guard.config.agreement


def test_a_fall_within_chance_is_none(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(guard, monkeypatch, figures(50, 50, 50, 50), figures(0, 50, 80, 50)) == [None]


def test_a_fall_at_the_last_step_softens_nothing(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    guard.steps = 1
    assert looked(guard, monkeypatch, figures(50, 50, 50, 50), figures(0, 0, 1, 0)) == ["end"]


def test_softened_rates(guard: Guard) -> None:
    assert guard.lr_factor(10, 5) == 1
    guard.softened = 20
    assert [guard.lr_factor(step, 4) for step in (20, 22, 24, 90)] == [0, 0.25, 0.5, 0.5]


def test_a_rare_class_is_measured_by_its_neighbours_alone() -> None:
    train_images = open_source("builtin:fashion-canvas?fraction=0.02")
    labels = train_images.selected_labels
    few = np.concatenate([np.flatnonzero(labels != 3), np.flatnonzero(labels == 3)[:1]])
    held = HeldOut(train_images.subset(train_images.keys[few]), open_source("builtin:fashion-canvas:test"))
    assert 3 not in held.classes.tolist()
    assert len(held.tasks) == 5
    assert all(len(rows) == 45 for rows, _ in held.tasks)


def test_two_classes_at_least_are_told_apart_by_few_labels() -> None:
    source = open_source("builtin:fashion-canvas?fraction=0.05")
    labels = source.selected_labels
    rows = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:2]])
    held = HeldOut(source.subset(source.keys[rows]), open_source("builtin:fashion-canvas:test"))
    assert held.classes.tolist() == [0, 1]
    assert all(len(task) == 4 for task, _ in held.tasks)


def unhurried() -> None:
    """A moment for each step, so that a kill comes in time."""
    accept = Trainer.accept

    def accepted(trainer: Trainer, outcome: Outcome) -> None:
        accept(trainer, outcome)
        time.sleep(0.2)

    Trainer.accept = accepted  # type: ignore[method-assign]


def killed(guard_changes: dict[str, Any], tmp_path: Path, world: int) -> None:
    """Two runs, one of them killed after its guard has softened it and before it has ended it, leave the same bits."""
    words = write_recipe(tmp_path / "recipe.yaml", {"monitor.every": 1} | guard_changes)
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def begin(out: Path) -> list[Any]:
        line, errors = [*words, "--out", str(out)], tmp_path / "errors"
        alone = world == 1
        return [start(line, errors, prepare=unhurried)] if alone else start_group(line, errors, world, unhurried)

    assert finish(*begin(whole)) == [0] * world
    processes = begin(cut)
    with running(*processes):

        def deep() -> bool:
            names = [path.name for path in cut.glob("stages/1-graft/checkpoints/step-*.pt")]
            return any(int(name.split("-")[1]) > 4 for name in names)

        assert wait_for(deep, *processes)
        for process in processes:
            process.kill()
            process.join()
    assert not (cut / "run.json").exists()
    assert finish(*begin(cut)) == [0] * world
    assert bits(whole) == bits(cut)
    assert rows(whole) == rows(cut)
    assert plan_of(whole)["guard"] == plan_of(cut)["guard"]


SOFTENED = GUARDED | ABSURD | {"engine.checkpoint_steps": 1}


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_stage_goes_on_to_the_same_bits(tmp_path: Path, world: int) -> None:
    assert SMALL["monitor.every"] == 0
    killed(SOFTENED, tmp_path, world)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "labels"), [("ddp", True), ("fsdp", True), ("fsdp", False)])
def test_several_processes_decide_as_one(tmp_path: Path, strategy: str, labels: bool) -> None:
    changes = SOFTENED | {"monitor.every": 1, "engine.precision": "64-true"}
    changes |= {"stages.graft.optimizer.base_lr": 3.0 if labels else 0.1}
    if not labels:
        changes |= {"data.source": unlabelled_images(tmp_path), "stages.graft.guard.agreement": 0.9}
    words = write_recipe(tmp_path / "recipe.yaml", changes | {"engine.strategy": strategy})
    assert finish(start([*words, "--out", str(tmp_path / "one")], tmp_path / "errors")) == [0]
    group = start_group([*words, "--out", str(tmp_path / "two")], tmp_path / "errors", 2)
    assert finish(*group) == [0, 0]
    one, two = (plan_of(tmp_path / name)["guard"] for name in ("one", "two"))
    assert one == two or {key: one[key] for key in ("kept_step", "softened", "ended", "sentence")} == {
        key: two[key] for key in ("kept_step", "softened", "ended", "sentence")
    }
    assert labels or 0 < one["kept_part"] < 1
    encoders = [load_file(tmp_path / name / "encoder/model.safetensors") for name in ("one", "two")]
    for name, value in encoders[0].items():
        assert torch.allclose(value, encoders[1][name], atol=1e-6), name


@pytest.mark.slow
def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    changes = GUARDED | {"engine.precision": "64-true", "stages.graft.epochs": 3}
    whole, parts = (train(tmp_path / str(size), changes | {"engine.micro_batch": size}) for size in (None, 8))
    assert plan_of(whole)["guard"]["kept_step"] == plan_of(parts)["guard"]["kept_step"]
    a, b = (load_file(run / "encoder/model.safetensors") for run in (whole, parts))
    assert all(torch.allclose(value, b[name], atol=1e-6) for name, value in a.items())
