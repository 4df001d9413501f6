"""A step in parts has the gradient of the whole batch, to float64; the anchor's closed form is autograd's gradient."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import TINY

from layergraft.config import load_recipe
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.graft.apply import Anchor, count_parameters, set_frozen, stage_rows
from layergraft.graft.plan import build_plan
from layergraft.objectives.base import Objective, Progress
from layergraft.objectives.create import create_objective
from layergraft.training.gradients import Gradients, TrainStep

IMAGES = 12


def step_of(
    stage: str, micro_batch: int | None
) -> tuple[Encoder, Objective, dict[str, float], dict[str, torch.Tensor]]:
    """(encoder, objective, losses, changed buffers) of one step in float64."""
    recipe = load_recipe("fashion_paper", TINY | {"stages.graft.objective.keep_ratio": 0.5})
    encoder = create_encoder(recipe.encoder, 0).double()
    torch.manual_seed(0)
    objective = create_objective(recipe.stages[stage].objective, encoder).double()
    objective.begin_stage(encoder)
    images = torch.rand(2, IMAGES, 1, 36, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    names = list(recipe.stages[stage].views)
    batch = Batch(
        keys=np.arange(IMAGES),
        epoch=0,
        views=dict(zip(names, images, strict=False)),
        labels=None,
        random=Randomness(seed=0, scope="test"),
    )
    module = TrainStep(encoder, objective, nullcontext)
    losses, pending = Gradients(module, module, micro_batch)(batch, Progress(step=0, steps=10), scale=4.0)
    return encoder, objective, {name: float(value.detach()) for name, value in losses.items()}, pending


@pytest.mark.parametrize("stage", ["mae", "graft"])
@pytest.mark.parametrize("micro_batch", [1, 5, 6])
def test_parts_have_the_gradient_of_the_whole(stage: str, micro_batch: int) -> None:
    whole, parts = step_of(stage, None), step_of(stage, micro_batch)
    assert parts[2] == pytest.approx(whole[2], abs=1e-12)
    for name in whole[3]:
        torch.testing.assert_close(parts[3][name], whole[3][name], rtol=0, atol=1e-12)
    for module in (0, 1):
        expected = dict(whole[module].named_parameters())
        for name, parameter in parts[module].named_parameters():
            other = expected[name].grad
            assert (parameter.grad is None) == (other is None), name
            if other is not None:
                assert other.abs().max() > 0, name
                torch.testing.assert_close(parameter.grad, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_anchor_pulls_like_autograd(norm: str) -> None:
    plan = {"stages.mae.plan.anchor": {"norm": norm, "weight": 0.25, "blocks": 2}}
    recipe = load_recipe("fashion_paper", TINY | plan)
    encoder = create_encoder(recipe.encoder, 0).double()
    rows = stage_rows(encoder, create_objective(recipe.stages["mae"].objective, encoder))
    table = build_plan(recipe.stages["mae"], "mae", count_parameters(rows), encoder.depth)
    set_frozen(rows, table)
    anchor = Anchor(rows, table)
    assert float(anchor.pull()) == 0
    start = [parameter.detach().clone() for parameter in encoder.parameters()]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            parameter.grad = torch.ones_like(parameter)
    held = anchor.pull()
    covered = {id(p) for name in ("patch_embed", "tokens", "blocks.0", "blocks.1") for p in rows[name]}
    total = 0.0
    for parameter, first in zip(encoder.parameters(), start, strict=True):
        leaf = parameter.detach().clone().requires_grad_()
        difference = leaf - first
        loss = 0.25 * (difference.abs().sum() if norm == "l1" else 0.5 * difference.square().sum())
        loss.backward()
        expected = leaf.grad if id(parameter) in covered else torch.zeros_like(leaf)
        torch.testing.assert_close(parameter.grad - 1, expected, rtol=0, atol=1e-6)
        total += float(loss.detach()) if id(parameter) in covered else 0.0
    assert float(held) == pytest.approx(total, rel=1e-6)
