"""Every arm's recipe is what its name says, and a chain of two runs is the chain of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs

from layergraft.commands.reproduce.arms import ARMS
from layergraft.commands.reproduce.recipes import arm_recipe
from layergraft.commands.reproduce.scales import SCALES
from layergraft.commands.study.plan_text import plan_text
from layergraft.commands.study.run_job import last_stage
from layergraft.commands.train import train_run
from layergraft.config import MaeConfig, MocoConfig, Recipe, StageConfig, VicregConfig, load_recipe
from layergraft.config.objectives import JointConfig, NnclrConfig, SimclrConfig
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.graft.apply import stage_plan
from layergraft.graft.plan import Plan
from layergraft.objectives.create import create_objective

TINY = SCALES["tiny"]
SOURCE = str(TINY.source)
BLOCKS = [f"blocks.{index}" for index in range(6)]
TRAINED = [name for name, arm in ARMS.items() if arm.recipe]


def tiny(name: str, **options: object) -> Recipe:
    return arm_recipe(ARMS[name], TINY, SOURCE, 0, **options)  # type: ignore[arg-type]


def table(recipe: Recipe, stage: str) -> Plan:
    config = recipe.stages[stage]
    encoder = create_encoder(recipe.encoder, 0)
    return stage_plan(config, stage, encoder, create_objective(config.objective, encoder))[1]


def test_every_arm_of_the_issue_is_there() -> None:
    assert list(ARMS) == [
        *("mae", "scratch", "joint", "graft_uniform", "graft_slow", "graft_geometric", "graft_suggested"),
        *("graft_frozen", "cl_mim", "refiner", "graft_vicreg", "vicreg_half", "vicreg_narrow", "graft_simclr"),
        *("moco_wide", "moco_whole", "random", "pixels"),
    ]


@pytest.mark.parametrize("name", TRAINED)
def test_lengths_are_the_same_for_every_arm(name: str) -> None:
    recipe = tiny(name)
    mim = [stage.epochs for stage in recipe.stages.values() if isinstance(stage.objective, MaeConfig)]
    contrastive = [stage.epochs for stage in recipe.stages.values() if not isinstance(stage.objective, MaeConfig)]
    assert mim in ([], [10])
    assert sum(contrastive) in (0, pytest.approx(4))
    assert mim or contrastive
    assert recipe.data.source == SOURCE
    assert recipe.evaluate is None


@pytest.mark.parametrize("name", TRAINED)
def test_a_trial_changes_length_and_rate_alone(name: str) -> None:
    whole, trial = tiny(name), tiny(name, factor=2.0, length=1 / 3)
    assert whole.stages
    for stage, other in zip(whole.stages.values(), trial.stages.values(), strict=True):
        assert other.epochs == pytest.approx(stage.epochs / 3)
        assert other.warmup_epochs == pytest.approx(stage.warmup_epochs / 3)
        assert other.optimizer.base_lr == 2 * stage.optimizer.base_lr
        optimizer = structs.replace(other.optimizer, base_lr=stage.optimizer.base_lr)
        assert (
            structs.replace(other, epochs=stage.epochs, warmup_epochs=stage.warmup_epochs, optimizer=optimizer) == stage
        )


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("graft_uniform", [1, 1, 1, 1, 1, 1]),
        ("graft_slow", [0.3, 0.3, 0.3, 0.3, 1, 1]),
        ("graft_geometric", [0.65**power for power in (6, 5, 4, 3, 2, 1)]),
        ("graft_suggested", [0.1, 0.2, 0.3, 0.4, 0.5, 1]),
        ("graft_vicreg", [1, 1, 1, 1, 1, 1]),
    ],
)
def test_layers_move_as_the_title_says(name: str, scales: list[float]) -> None:
    recipe = tiny(name, lr_scale=scales) if ARMS[name].suggested else tiny(name)
    assert ARMS[name].first == "mae"
    plan = table(recipe, "graft")
    assert [plan[block].lr_scale for block in BLOCKS] == pytest.approx(scales)
    assert not any(plan[block].frozen for block in BLOCKS)
    assert plan["patch_embed"].frozen
    assert plan["positions"].frozen
    objective = recipe.stages["graft"].objective
    assert isinstance(objective, VicregConfig if name == "graft_vicreg" else MocoConfig)


def test_frozen_and_reversed_orders_freeze_the_lower_half() -> None:
    for name, stage in (("graft_frozen", "graft"), ("cl_mim", "mae")):
        plan = table(tiny(name), stage)
        assert [plan[block].frozen for block in BLOCKS] == [True] * 3 + [False] * 3
    assert isinstance(tiny("cl_mim").stages["mae"].objective, MaeConfig)
    assert ARMS["cl_mim"].first == "scratch"


def test_parents_and_joint() -> None:
    scratch, joint = tiny("scratch"), tiny("joint")
    assert isinstance(tiny("mae").stages["mae"].objective, MaeConfig)
    assert scratch.encoder.weight_init == "moco"
    assert ARMS["scratch"].first is None
    parts = joint.stages["joint"].objective
    assert isinstance(parts, JointConfig)
    assert parts.parts == {"mae": tiny("mae").stages["mae"].objective, "moco": scratch.stages["moco"].objective}
    # The graft's contrastive stage is that of MoCo v3 from scratch.
    graft, own = tiny("graft_uniform").stages["graft"], scratch.stages["moco"]
    assert structs.replace(graft, plan=own.plan) == own


@pytest.mark.parametrize("scale", SCALES)
def test_arms_that_explain_vicreg_differ_in_one_thing(scale: str) -> None:
    def stage(name: str) -> StageConfig:
        return arm_recipe(ARMS[name], SCALES[scale], SOURCE, 0).stages["graft"]

    vicreg, moco = stage("graft_vicreg"), stage("graft_uniform")
    assert isinstance(vicreg.objective, VicregConfig)
    assert isinstance(moco.objective, MocoConfig)
    narrow, wide = moco.objective.projector[-1], moco.objective.projector[0]
    assert narrow < wide == vicreg.objective.expander[0]
    changed = {
        "vicreg_half": structs.replace(vicreg.objective, keep_ratio=0.5),
        "vicreg_narrow": structs.replace(vicreg.objective, expander=(wide, wide, narrow)),
        "moco_wide": structs.replace(moco.objective, projector=(wide, wide, wide), predictor=(wide, wide)),
        "moco_whole": structs.replace(moco.objective, keep_ratio=1.0),
        "graft_simclr": SimclrConfig(temperature=0.2, projector=moco.objective.projector, keep_ratio=0.5),
    }
    for name, objective in changed.items():
        other = vicreg if name.startswith("vicreg") else moco
        assert stage(name) == structs.replace(other, objective=objective), name
    assert structs.replace(vicreg, objective=moco.objective) == moco


def test_refiner_is_measured_by_its_average() -> None:
    recipe = tiny("refiner")
    assert ARMS["refiner"].encoder == "encoder_ema"
    assert list(recipe.stages) == ["heads", "refine"]
    assert recipe.stages["refine"].ema is not None
    plan = table(recipe, "heads")
    assert all(plan[block].frozen for block in BLOCKS)
    refine = table(recipe, "refine")
    assert refine["blocks.0"].lr_scale == pytest.approx(0.65**6)
    for stage in recipe.stages.values():
        assert isinstance(stage.objective, NnclrConfig)
        assert stage.objective.blocks == (4, 5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TRAINED)
def test_recipes_fit_at_every_scale(scale: str, name: str) -> None:
    recipe = arm_recipe(ARMS[name], SCALES[scale], "images", 0)
    assert recipe.stages
    with torch.device("meta"):
        for stage in recipe.stages:
            plan = table(recipe, stage)
            assert any(not row.frozen for row in plan.rows)
            assert plan_text(recipe.stages[stage].plan).startswith("lr scale")


def test_two_runs_are_one_chain(tmp_path: Path) -> None:
    """MAE, then an arm that starts from its last stage: the bits of `layergraft train --recipe fashion_frozen`."""
    smoke = SCALES["smoke"]
    mae, arm = (arm_recipe(ARMS[name], smoke, str(smoke.source), 3) for name in ("mae", "graft_frozen"))
    train_run(mae, tmp_path / "mae", "auto")
    second = structs.replace(arm, start=str(last_stage(tmp_path / "mae")))
    train_run(second, tmp_path / "graft", "auto")
    assert list(load_recipe("fashion_frozen").stages) == ["mae", "graft"]
    train_run(structs.replace(mae, stages=mae.stages | arm.stages), tmp_path / "whole", "auto")
    ours, whole = (load_encoder(tmp_path / name / "encoder").vit.state_dict() for name in ("graft", "whole"))
    assert all(torch.equal(ours[key], whole[key]) for key in whole)


@pytest.mark.parametrize("name", TRAINED)
def test_in_colour_contrast_sees_grey_views_and_nothing_else_differs(name: str) -> None:
    scale = SCALES["colour"]
    recipe, grey = arm_recipe(ARMS[name], scale, str(scale.source), 0), tiny(name)
    assert recipe.encoder == structs.replace(grey.encoder, in_chans=3)
    for stage, other in zip(recipe.stages.values(), grey.stages.values(), strict=True):
        for view, config in stage.views.items():
            share = 0.8 if view in ("first", "second") else 0.0
            assert config == structs.replace(other.views[view], gray=share), view
        assert structs.replace(stage, views=other.views) == other
