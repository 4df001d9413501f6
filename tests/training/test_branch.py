"""Branches of one trunk: the same bits as a whole run of that length, the trunk untouched, others refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from conftest import TINY

import layergraft
from layergraft.commands import plan
from layergraft.config import Recipe, dump_recipe, load_recipe
from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.training import loop
from layergraft.training.branch import Branch, decay_start, find_branch, steps_left_out

VARYING = {"images_per_second", "data_wait", "time"}
TRUNK = {
    "stages.mae.steps": 12,
    "stages.mae.warmup_steps": 2,
    "stages.mae.batch_size": 16,
    "stages.mae.optimizer.schedule": "wsd",
    "stages.mae.optimizer.cooldown": 0.25,
    "data.source": "builtin:fashion-canvas?fraction=0.02",
    "engine.log_every": 1,
    "evaluate": None,
    "analyze": [],
    "monitor.every": 0,
}
LONGER = {"stages.mae.steps": 14, "stages.mae.optimizer.cooldown": 5 / 14}  # its decay begins at step 9, too


def recipe_of(**changes: Any) -> Recipe:
    """The demo's first stage alone."""
    tiny = {key: value for key, value in TINY.items() if key != "stages.mae.epochs"}
    recipe = load_recipe("fashion_paper", tiny | TRUNK | changes)
    return msgspec.structs.replace(recipe, stages={"mae": recipe.stages["mae"]})


def train(out: Path, **changes: Any) -> Path:
    out.with_suffix(".yaml").write_text(dump_recipe(recipe_of(**changes)))
    layergraft.train(recipe=out.with_suffix(".yaml"), out=out)
    return out


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "stages/0-mae/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in VARYING} for row in found]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """The files of a trunk that tell where a branch may begin; the state itself is read later."""
    checkpoints = tmp_path / "trunk" / "stages/0-mae/checkpoints"
    checkpoints.mkdir(parents=True)
    (tmp_path / "trunk" / "recipe.yaml").write_text(dump_recipe(recipe_of()))
    for name in ("trunk-000000009-0-00000000", "step-000000000-0-00000000", "step-000000012-0-00000000"):
        (checkpoints / f"{name}.pt").touch()
    return tmp_path / "trunk"


@pytest.mark.slow
def test_a_branch_has_the_bits_of_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trunk has ended, and stays as it is; the branch needs it no more once it has begun."""
    trunk = train(tmp_path / "trunk")
    assert [path.name[:17] for path in (trunk / "stages/0-mae/checkpoints").glob("trunk-*")] == ["trunk-000000009-0"]
    before = content(trunk)
    branch = train(tmp_path / "branch", **LONGER, **{"stages.mae.branch": str(trunk)})
    assert "branches off at step 9 of 14" in capsys.readouterr().err
    assert content(trunk) == before
    whole = train(tmp_path / "whole", **LONGER)
    assert rows(branch) == rows(whole)[9:]
    assert [row["step"] for row in rows(branch)] == [10, 11, 12, 13, 14]
    weights = "stages/0-mae/encoder/model.safetensors"
    assert (branch / weights).read_bytes() == (whole / weights).read_bytes()
    assert (branch / weights).read_bytes() != (trunk / weights).read_bytes()
    assert "branch" in json.loads((branch / "stages/0-mae/encoder/layergraft.json").read_text())
    away = trunk.rename(tmp_path / "away")
    try:
        layergraft.train(recipe=branch.with_suffix(".yaml"), out=branch)
    finally:
        away.rename(trunk)


def test_which_state_is_taken(trunk: Path) -> None:
    """The latest before both decays, by a run, a stage or a file."""

    def step(branch: Path, **changes: Any) -> int | None:
        found = find_branch(recipe_of(**LONGER | {"stages.mae.branch": str(branch)} | changes), "mae", 16)
        return None if found is None else found.step

    stage = trunk / "stages/0-mae"
    (file,) = stage.glob("checkpoints/trunk-*.pt")
    assert {step(place) for place in (trunk, stage, file)} == {9}
    assert step(trunk, **{"stages.mae.steps": 100}) == 9  # longer than the trunk: it stays at the peak for a while
    assert find_branch(recipe_of(), "mae", 16) is None
    assert steps_left_out(recipe_of(**{"stages.mae.branch": "nowhere"}), "mae", 16) == 0
    assert decay_start(recipe_of().stages["mae"], 16) == 9
    assert decay_start(load_recipe("fashion_paper", TINY).stages["mae"], 16) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.mae.steps": 9}, "begin at step 6 .* 9"),
        ({"stages.mae.optimizer.base_lr": 1.0}, "optimizer.base_lr"),
        ({"stages.mae.warmup_steps": 1}, "warm-up"),
        ({"stages.mae.optimizer.schedule": "cosine"}, "wsd"),
        ({"seed": 1}, "seed"),
        ({"data.holdout": 0.2}, "data.holdout"),
        ({"data.source": "photos?range=0,4095"}, "how it is read"),
        ({"data.source": "photos?mean=0.4"}, "mean"),
        ({"stages.mae.branch": "nowhere"}, "neither a run"),
    ],
)
def test_what_is_refused(trunk: Path, changes: dict[str, Any], message: str) -> None:
    recipe = recipe_of(**LONGER | {"stages.mae.branch": str(trunk)} | changes)
    with pytest.raises(UserError, match=message):
        find_branch(recipe, "mae", 16)


@pytest.mark.parametrize("name", ["damaged-step-000000009-0-00000000.pt", "mine.pt", "step-nine-0-00000000.pt"])
def test_a_file_that_is_no_state_is_refused(trunk: Path, name: str) -> None:
    """Its name would have been taken for the number of a step; among others in the directory it does not count."""
    file = trunk / "stages/0-mae/checkpoints" / name
    file.touch()
    with pytest.raises(UserError, match="neither a run"):
        find_branch(recipe_of(**LONGER | {"stages.mae.branch": str(file)}), "mae", 16)
    branch = find_branch(recipe_of(**LONGER | {"stages.mae.branch": str(trunk)}), "mae", 16)
    assert branch is not None
    assert branch.step == 9


def test_plan_compares_what_the_run_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range that is found when the images are opened is that of the trunk, whose recipe says it."""

    def stop(recipe: Recipe, name: str, steps_per_epoch: int) -> None:
        raise UserError(str(recipe.data.source))

    recipe = recipe_of(**{"data.source": "photos?range=auto"})
    data: Any = SimpleNamespace(train=replace(open_source("builtin:fashion-canvas?fraction=0.02"), spec="found"))
    monkeypatch.setattr(plan, "find_branch", stop)
    with pytest.raises(UserError, match="found"):
        plan.planned_stage(recipe, "mae", create_encoder(recipe.encoder, 0), torch.device("cpu"), data, None)


def test_first_parts_are_compared_by_their_steps(trunk: Path) -> None:
    """Half of the trunk is not half of a longer branch: a whole run of that length would have seen something else."""

    def classify(half: float) -> dict[str, Any]:
        parts = [{"until": half, "size": 18}]
        return {"stages.mae.objective": {"name": "classify", "classes": 10}, "stages.mae.progressive": parts}

    def recipe(half: float, **changes: Any) -> Recipe:
        return recipe_of(**classify(half), **{"stages.mae.views": {}}, **changes)

    (trunk / "recipe.yaml").write_text(dump_recipe(recipe(0.5)))
    branch = LONGER | {"stages.mae.branch": str(trunk)}
    assert find_branch(recipe(6 / 14, **branch), "mae", 16) is not None
    with pytest.raises(UserError, match="progressive"):
        find_branch(recipe(0.5, **branch), "mae", 16)


def test_all_processes_take_the_state_that_the_first_one_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk that is running leaves another one in between."""
    first, second = (Branch(file=Path(f"step-{step}-0-0.pt"), step=step) for step in (3, 6))
    states = {branch.file: {"data": "", "step": branch.step} for branch in (first, second)}
    monkeypatch.setattr(Branch, "state", lambda branch: states[branch.file])
    monkeypatch.setattr(loop, "is_distributed", lambda: True)
    monkeypatch.setattr(loop, "tell_all", lambda word: [first, word])
    restored: list[Any] = []
    stage = SimpleNamespace(
        name="mae", steps=9, branch=second, loader=SimpleNamespace(source=SimpleNamespace(fingerprint=""))
    )
    trainer: Any = SimpleNamespace(stage=stage, step=0, restore=restored.append, state=dict)
    checkpoints: Any = SimpleNamespace(newest=lambda: None, save=lambda state: None)
    loop.begin(trainer, checkpoints, lambda line: None)
    assert restored == [states[first.file]]


def test_a_branch_without_a_whole_checkpoint_does_not_begin_at_0() -> None:
    stage = SimpleNamespace(name="mae", branch=None, config=recipe_of(**{"stages.mae.branch": "trunk"}).stages["mae"])
    trainer: Any = SimpleNamespace(stage=stage, begin=lambda: pytest.fail("it began"))
    checkpoints: Any = SimpleNamespace(newest=lambda: None)
    with pytest.raises(UserError, match="are damaged"):
        loop.begin(trainer, checkpoints, lambda line: None)


def test_only_the_first_stage_branches_off() -> None:
    with pytest.raises(UserError, match="for the first stage"):
        load_recipe("fashion_paper", TINY | {"stages.graft.branch": "runs/trunk"})
    with pytest.raises(UserError, match="no `guard`"):
        load_recipe("fashion_paper", TINY | {"stages.mae.branch": "runs/trunk", "stages.mae.guard": {}})
