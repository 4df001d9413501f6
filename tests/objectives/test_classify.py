"""Classification: a grid of heads is so many heads alone, the frozen encoder has no graph, drop path is timm's."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from timm.layers import DropPath as TimmDropPath

from layergraft.config import ClassifyConfig, EncoderConfig, GridConfig, HeadsPlanConfig, PlanConfig, StageConfig
from layergraft.config.protocols import PROTOCOLS
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.data.sources.open import open_source
from layergraft.encoders.drop_path import draw_paths, install_drop_path
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.graft.apply import count_parameters, set_frozen, stage_rows
from layergraft.graft.optimizer_groups import parameter_groups
from layergraft.graft.plan import build_plan
from layergraft.objectives.base import Progress
from layergraft.objectives.classify import Classify
from layergraft.objectives.create import create_objective, know_classes

SMALL = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=16, in_chans=1, patch_size=4, embed_dim=16, depth=3, num_heads=2
)
PROGRESS = Progress(step=0, steps=10)


def make(config: ClassifyConfig, encoder: Encoder) -> Classify:
    objective = create_objective(config, encoder)
    assert isinstance(objective, Classify)
    objective.begin_stage(encoder)
    return objective


def batch(count: int) -> Batch:
    torch.manual_seed(0)
    return Batch(
        keys=np.arange(count),
        epoch=0,
        views={"image": torch.randn(count, 1, 16, 16)},
        labels=torch.arange(count) % 5,
        random=Randomness(seed=0, scope="test"),
    )


def test_default_grid_is_the_published_one() -> None:
    """Base lr in {1, 3, 5, 7, 9} x {1e-5 ... 1e1}, weight decay in {0, 1e-6}."""
    linears = ClassifyConfig(grid=GridConfig()).linears()
    expected = {(b * 10.0**e, decay) for e in range(-5, 2) for b in (1, 3, 5, 7, 9) for decay in (0.0, 1e-6)}
    assert len(linears) == 70
    assert sorted(linears.values()) == pytest.approx(np.array(sorted(expected)))


def test_each_head_of_a_grid_learns_as_if_alone() -> None:
    """Five SGD steps by torch on one linear and one cross-entropy, beside the same head among six."""
    encoder = create_encoder(SMALL, 0)
    grid = GridConfig(lr_scale=(0.1, 1.0, 5.0), weight_decay=(0.0, 0.01))
    stage = StageConfig(
        objective=ClassifyConfig(classes=5, grid=grid),
        plan=PlanConfig(
            freeze=("patch_embed", "positions", "tokens", "blocks.*", "norm"),
            heads=HeadsPlanConfig(lr_scale=2.0),
            weight_decay_1d=None,
        ),
    )
    objective = make(stage.objective, encoder)
    rows = stage_rows(encoder, objective)
    plan = build_plan(stage, "linear", count_parameters(rows), encoder.depth, 256)
    set_frozen(rows, plan)
    row = plan["heads.linear05"]
    assert (row.lr, row.weight_decay) == (pytest.approx(stage.optimizer.base_lr * 2 * 5), 0.01)
    assert plan["heads.linear00"].weight_decay == 0
    optimizer = torch.optim.SGD(parameter_groups(rows, plan))
    alone = torch.nn.Linear(16, 5)
    alone.load_state_dict(objective.heads["linear05"].state_dict())
    single = torch.optim.SGD(alone.parameters(), lr=row.lr, weight_decay=0.01)
    data = batch(20)
    for _ in range(5):
        features = objective.encode(encoder, data)
        assert not features["feature"].requires_grad
        losses, _ = objective.losses(features, PROGRESS)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        single.zero_grad()
        assert data.labels is not None
        torch.nn.functional.cross_entropy(alone(encoder(data.views["image"]).detach()), data.labels).backward()
        single.step()
    ours = objective.heads["linear05"]
    assert torch.allclose(ours.weight, alone.weight, atol=1e-6)
    assert torch.allclose(ours.bias, alone.bias, atol=1e-6)


def test_fine_tuning_is_a_plan() -> None:
    """Layer decay, no decay of class token and positions, as table rows; checked by hand."""
    encoder = create_encoder(SMALL, 0)
    stage = PROTOCOLS["finetune"]
    objective = make(ClassifyConfig(classes=5), encoder)
    rows = count_parameters(stage_rows(encoder, objective))
    plan = build_plan(stage, "finetune", rows, encoder.depth, 256)
    scales = {
        "patch_embed": 0.6**4,
        "positions": 0.6**4,
        "blocks.0": 0.6**3,
        "blocks.2": 0.6,
        "norm": 1,
        "heads.linear": 1,
    }
    assert {row: plan[row].lr_scale for row in scales} == pytest.approx(scales)
    assert {row: plan[row].weight_decay for row in ("tokens", "positions", "blocks.0")} == {
        "tokens": 0,
        "positions": 0,
        "blocks.0": 0.05,
    }
    assert {row.weight_decay_1d for row in plan.rows if row.name.startswith(("blocks", "norm", "heads"))} == {0}
    assert not any(row.frozen for row in plan.rows)
    wrong = msgspec.structs.replace(stage, plan=PlanConfig(weight_decay={"bloks.*": 0.0}))
    with pytest.raises(UserError, match=r"bloks"):
        build_plan(wrong, "finetune", rows, encoder.depth, 256)


def test_the_best_head_on_held_out_images_is_the_classifier() -> None:
    encoder = create_encoder(SMALL, 0).eval()
    objective = make(ClassifyConfig(classes=10, grid=GridConfig()), encoder).eval()
    source = open_source("builtin:fashion?fraction=0.005")
    with torch.no_grad():
        for name, head in objective.heads.items():
            head.weight.zero_()
            head.bias.copy_(torch.nn.functional.one_hot(torch.tensor(int(name[-1])), 10))
    counts = np.bincount(source.selected_labels, minlength=10)
    numbers = objective.evaluate_holdout(encoder, source)
    assert numbers == {"holdout_top1": 100 * counts.max() / len(source)}
    chosen = int(objective.best_head)
    assert chosen % 10 == counts.argmax()
    assert objective.predict(encoder, torch.randn(3, 1, 16, 16)).argmax(1).tolist() == [counts.argmax()] * 3
    assert objective.measure(encoder, source) == {"top1": numbers["holdout_top1"]}


def test_projector_keeps_its_first_linear() -> None:
    encoder = create_encoder(SMALL, 0)
    objective = make(ClassifyConfig(classes=5, projector=12, head_std=2e-5), encoder)
    assert objective.heads["projector"][0].weight.shape == (12, 16)
    assert objective.heads["linear"].weight.shape == (5, 12)
    assert float(objective.heads["linear"].weight.detach().abs().max()) <= 4e-5
    x = torch.randn(3, 16)
    by_hand = objective.heads["linear"](x @ objective.heads["projector"][0].weight.T)
    assert torch.allclose(objective.logits(x)[:, 0], by_hand, atol=1e-6)


def test_drop_path_is_timm_s() -> None:
    encoder = create_encoder(SMALL, 0)
    names = list(encoder.state_dict())
    paths = install_drop_path(encoder, 0.4)
    assert list(encoder.state_dict()) == names
    assert [path.rate for path in paths] == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])
    uniform = torch.rand(1000, 6)
    draw_paths(paths, uniform)
    x = torch.ones(1000, 2, 3)
    theirs = TimmDropPath(0.4).train()(x)
    ours = paths[5].train()(x)
    assert set(ours.flatten().tolist()) == set(theirs.flatten().tolist())
    assert torch.equal(ours[:, 0, 0] > 0, uniform[:, 5] >= 0.4)
    assert torch.equal(paths[5].eval()(x), x)


def test_labels_are_needed() -> None:
    source = open_source("builtin:fashion")
    known = know_classes(ClassifyConfig(), source, "linear")
    assert isinstance(known, ClassifyConfig)
    assert known.classes == 10
    with pytest.raises(UserError, match="not known"):
        know_classes(ClassifyConfig(), None, "linear")
