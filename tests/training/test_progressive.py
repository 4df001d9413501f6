"""Stages whose first parts see smaller images or fewer patches: batches, costs, what plan says, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from msgspec import structs

import layergraft
from layergraft.commands.plan import progressive_line
from layergraft.config import MocoConfig, load_recipe
from layergraft.config.objectives import JointConfig, SimclrConfig
from layergraft.config.stage import PhaseConfig, StageConfig
from layergraft.data.batch import Batch
from layergraft.data.loader import Phase, TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.objectives import create_objective
from layergraft.objectives.moco import Moco
from layergraft.training.cost import relative_cost, step_flops
from layergraft.training.stage_files import progressive_json

FIRST = [{"until": 0.25, "size": 18, "keep_ratio": 0.5}, {"until": 0.75, "size": 27}]
KEY = "stages.graft.progressive"


def moco_stage(phases: list[dict[str, Any]]) -> StageConfig:
    return load_recipe("fashion_paper", TINY | {KEY: phases, "stages.graft.batch_size": 8}).stages["graft"]


def test_batches_by_the_step_of_the_schedule() -> None:
    """Views that say their own size keep it; a rollback, which leaves batches out, does not shift the parts."""
    stage = structs.replace(moco_stage([]), objective=MocoConfig(local_views=1, local_size=9))
    loader = TrainLoader(
        open_source("builtin:fashion-canvas?fraction=0.005"),
        stage.objective.views,
        size=36,
        channels=1,
        batch_size=4,
        random=Randomness(seed=0, scope="graft"),
        skipped=SkippedImages(0.01),
        phases=[Phase(stop=2, size=18, keep_ratio=0.5), Phase(stop=3, size=27, keep_ratio=None)],
    )

    def shown(skipped: int) -> list[tuple[int, int, float | None]]:
        found = loader.batches(skipped, 4 + skipped, skipped)
        return [(b.views["first"].shape[3], b.views["local0"].shape[3], b.keep_ratio) for b in found]

    assert shown(0) == [(18, 9, 0.5), (18, 9, 0.5), (27, 9, None), (36, 9, None)]
    assert shown(5) == shown(0)
    assert np.array_equal(loader.batch(5, 5).keys, loader.batch(5).keys)  # the images are the batch's own


def test_the_batch_says_which_part_of_the_patches() -> None:
    encoder = create_encoder(load_recipe("fashion_paper", TINY).encoder, 0)
    objective = create_objective(MocoConfig(projector=(8, 8), predictor=(8,), keep_ratio=1.0), encoder)
    assert isinstance(objective, Moco)
    images = {name: torch.zeros(3, 1, 18, 18) for name in ("first", "second")}
    random = Randomness(seed=0, scope="test")
    batch = Batch(keys=np.arange(3), epoch=0, views=images, labels=None, random=random, keep_ratio=0.5)
    kept = objective.kept_patches(encoder, batch, ["first", "second"])
    assert kept is not None
    assert kept.shape == (6, 2)  # of four patches of 9 pixels


@pytest.mark.slow
def test_costs_are_means_over_the_parts() -> None:
    recipe = load_recipe("fashion_paper", TINY)
    encoder = create_encoder(recipe.encoder, 0)
    whole = moco_stage([])
    objective = create_objective(whole.objective, encoder)
    objective.begin_stage(encoder)

    def flops(size: int, keep_ratio: float) -> int:
        views = {name: structs.replace(view, size=size) for name, view in whole.views.items()}
        config = structs.replace(whole.objective, keep_ratio=keep_ratio)
        other = create_objective(config, encoder)
        other.begin_stage(encoder)
        return step_flops(encoder, other, structs.replace(whole, views=views, objective=config))

    progressive = moco_stage(FIRST)
    own = progressive.objective.keep_ratio  # type: ignore[union-attr]
    expected = 0.25 * flops(18, 0.5) + 0.5 * flops(27, own) + 0.25 * flops(36, own)
    assert step_flops(encoder, objective, progressive) == pytest.approx(expected, rel=1e-6)
    assert relative_cost(progressive, encoder) == pytest.approx((0.25 * 4 * 0.5 / own + 0.5 * 9 + 0.25 * 16) / 16)
    assert relative_cost(whole, encoder) == 1


def test_parts_of_a_joint_objective_cost_what_each_of_them_sees() -> None:
    """Those that keep all patches see them in each part of the stage."""
    recipe = load_recipe("fashion_joint")
    encoder, stage = create_encoder(recipe.encoder, 0), recipe.stages["joint"]
    mae = recipe.stages["joint"].objective.parts["mae"]  # type: ignore[union-attr]
    objective = JointConfig(parts={"mae": mae, "simclr": SimclrConfig(keep_ratio=0.5)})
    for ratio, seen in ((0.5, 2.0), (0.25, 1.5)):
        phases = (PhaseConfig(until=0.5, keep_ratio=ratio),)
        joint = structs.replace(stage, objective=objective, progressive=phases)
        assert relative_cost(joint, encoder) == pytest.approx((0.5 * seen + 0.5 * 2) / 2)


def test_the_parts_in_words() -> None:
    parts = progressive_json(moco_stage(FIRST), 40)["progressive"]
    line = "Progressive: 18 px and 50 % of the patches to step 10, then 27 px to step 30; then whole views."
    assert progressive_line(parts) == line
    unknown = progressive_json(moco_stage(FIRST[1:]), None)["progressive"]
    assert progressive_line(unknown) == "Progressive: 27 px to 75 % of the steps; then whole views."
    assert progressive_json(moco_stage([]), 40) == {}


@pytest.mark.slow
def test_plan_says_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    changes = TINY | {KEY: FIRST, "stages.graft.epochs": None, "stages.graft.steps": 40}
    found = layergraft.plan(recipe="fashion_paper", stage="graft", overrides=changes)
    mae, graft = found["stages"]
    assert "progressive" not in mae
    assert graft["progressive"] == [
        {"until": 0.25, "steps": 10, "size": 18, "keep_ratio": 0.5},
        {"until": 0.75, "steps": 30, "size": 27, "keep_ratio": None},
    ]
    shown = " ".join(capsys.readouterr().out.split())
    assert "Progressive: 18 px and 50 % of the patches to step 10, then 27 px to step 30; then whole views." in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({KEY: [{"until": 0.5, "size": 18}, {"until": 0.5}]}, "in order"),
        ({"stages.mae.progressive": [{"until": 0.5, "size": 18}]}, "of the encoder's size"),
        ({"stages.mae.progressive": [{"until": 0.5, "keep_ratio": 0.5}]}, "only `moco`, `simclr` and `vicreg`"),
        ({KEY: [{"until": 1.0, "size": 18}]}, "until"),
        ({KEY: [{"until": 0.5, "size": 20}]}, "no multiple of the patch size 9"),
        (
            {
                KEY: [{"until": 0.5, "size": 18}],
                "stages.graft.views.first.size": 36,
                "stages.graft.views.second.size": 36,
            },
            "has one of its own",
        ),
        (
            {"stages.graft.objective.local_views": 1, "stages.graft.objective.local_crop_scale": [0.5, 0.1]},
            "`local_crop_scale` is a range",
        ),
        ({"evaluate.protocols": ["finetune"], "evaluate.finetune.guard": {}}, "takes no `guard`"),
        ({"evaluate.protocols": ["linear"], "evaluate.linear.branch": "runs/trunk"}, "takes no `branch`"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layergraft.plan(recipe="fashion_paper", json=True, overrides=TINY | changes)


def test_the_parts_are_keys_of_a_recipe() -> None:
    assert moco_stage(FIRST).progressive == (
        PhaseConfig(until=0.25, size=18, keep_ratio=0.5),
        PhaseConfig(until=0.75, size=27),
    )
