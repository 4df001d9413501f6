"""What MoCo can have besides: a gated mixture of predictors, a masked student, a trunk that both encoders share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec import structs
from test_batches import MOCO, batch, build

from layergraft.config import GateConfig
from layergraft.encoders.vit import Encoder
from layergraft.objectives import Progress
from layergraft.objectives.heads import Mixture
from layergraft.objectives.moco import Moco, frozen_blocks, gate_temperature
from layergraft.objectives.views import VIEWS

WHOLE = slice(0, 16)


@pytest.mark.parametrize(("step", "expected"), [(0, 30.0), (50, 15.5), (75, 8.25), (100, 1.0), (200, 1.0), (299, 1.0)])
def test_gate_cools_over_a_third_of_the_stage(step: int, expected: float) -> None:
    """30 -> 1 over the first 100 of 300 epochs."""
    assert gate_temperature(GateConfig(), Progress(step=step, steps=300)) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [30.0, 1.0])
def test_mixture_by_hand(temperature: float) -> None:
    torch.manual_seed(0)
    mixture = Mixture(8, (16, 4), 3)
    x = torch.randn(10, 8)
    outputs = [expert(x).detach().numpy() for expert in mixture.experts]
    scores = x.numpy() @ mixture.gate.weight.detach().numpy().T + mixture.gate.bias.detach().numpy()
    expected = np.zeros((10, 4))
    for sample in range(10):
        powers = [np.exp(score / temperature) for score in scores[sample]]
        for power, output in zip(powers, outputs, strict=True):
            expected[sample] += power / sum(powers) * output[sample]
    np.testing.assert_allclose(mixture(x, temperature).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gate_is_part_of_the_predictor_row_and_is_trained() -> None:
    config = structs.replace(MOCO, gate=GateConfig(experts=3))
    encoder, objective = build(config)
    assert list(objective.head_rows()) == ["projector", "predictor"]
    progress = Progress(step=0, steps=10)
    assert objective.before_step(encoder, progress) == {"momentum": 0.99, "gate_temperature": 30.0}
    objective.losses(objective.encode(encoder, batch(config, WHOLE)), progress)[0]["loss"].backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in objective.heads["predictor"].parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("frozen", [False, True])
def test_masked_student_full_view_teacher(frozen: bool) -> None:
    """The momentum encoder sees the whole views, the online one the kept patches, also where the trunk is frozen."""
    config = structs.replace(MOCO, keep_ratio=0.5, full_view_teacher=True)
    encoder, objective = build(config)
    assert isinstance(objective, Moco)
    for parameter in [*encoder.layers()["tokens"], *encoder.layers()["blocks.0"]]:
        parameter.requires_grad_(not frozen)
    images = batch(config, WHOLE)
    features = objective.encode(encoder, images)
    slow = objective.momentum_copies["encoder"]
    assert isinstance(slow, Encoder)
    keep = objective.kept_patches(encoder, images, VIEWS)
    assert keep is not None
    for number, view in enumerate(("first", "second")):
        torch.testing.assert_close(features[f"{view}_momentum"], slow(images.views[view]), rtol=1e-5, atol=1e-5)
        seen = encoder.run_blocks(encoder.tokens(images.views[view], keep[16 * number : 16 * number + 16]))[0]
        torch.testing.assert_close(features[view], encoder.feature(encoder.norm(seen)), rtol=1e-5, atol=1e-5)


def test_shared_trunk_equals_two_encoders() -> None:
    """Running the frozen blocks once gives what each encoder gives alone."""
    encoder, objective = build(MOCO)
    images = batch(MOCO, WHOLE)
    apart = objective.encode(encoder, images)
    assert frozen_blocks(encoder) is None
    for row in ("tokens", "blocks.0", "blocks.1"):
        for parameter in encoder.layers()[row]:
            parameter.requires_grad_(False)
    assert frozen_blocks(encoder) == 2
    together = objective.encode(encoder, images)
    assert apart.keys() == together.keys()
    for name, feature in apart.items():
        torch.testing.assert_close(together[name], feature, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("first", "second"), [(12, 12), (24, 24), (24, 8)])
def test_patches_are_kept_all_over_views_of_any_size(first: int, second: int) -> None:
    """Smaller than the encoder's images, larger, and one of each."""
    config = structs.replace(MOCO, keep_ratio=0.5)
    encoder, objective = build(config)
    assert isinstance(objective, Moco)
    sizes = {"first": first, "second": second}
    torch.manual_seed(4)
    images = replace(batch(config, WHOLE), views={name: torch.randn(16, 1, size, size) for name, size in sizes.items()})
    features = objective.encode(encoder, images)
    for view, size in sizes.items():
        keep = objective.kept_patches(encoder, images, [view])
        assert keep is not None
        assert keep.shape == (16, (size // 4) ** 2 // 2)
        assert int(keep.max()) == (size // 4) ** 2 - 1
        seen = encoder.run_blocks(encoder.tokens(images.views[view], keep))[0]
        torch.testing.assert_close(features[view], encoder.feature(encoder.norm(seen)), rtol=1e-5, atol=1e-5)


def test_local_views_are_queries_alone() -> None:
    """Twice the mean of the loss over all pairs of a query and a key of another view, each of them by hand."""
    config = structs.replace(MOCO, local_views=3, local_size=8)
    encoder, objective = build(config)
    assert isinstance(objective, Moco)
    assert list(config.views) == ["first", "second", "local0", "local1", "local2"]
    assert (config.views["local1"].size, config.views["local1"].crop_scale) == (8, (0.05, 0.25))
    images = batch(config, WHOLE)
    features = objective.encode(encoder, images)
    assert "local0_momentum" not in features
    torch.testing.assert_close(features["local2"], encoder(images.views["local2"]), rtol=1e-5, atol=1e-5)
    projector, predictor = objective.heads["projector"], objective.heads["predictor"]
    queries = {view: predictor(projector(features[view])) for view in config.views}
    keys = {view: objective.momentum_copies["projector"](features[f"{view}_momentum"]) for view in VIEWS}
    pairs = [(query, key) for query in queries for key in VIEWS if query != key]
    assert len(pairs) == 8
    t = config.temperature
    each = []
    for query, key in pairs:
        q, k = (torch.nn.functional.normalize(x, dim=1) for x in (queries[query], keys[key]))
        each.append(2 * t * torch.nn.functional.cross_entropy(q @ k.T / t, torch.arange(16)))
    losses, _ = objective.losses(features, Progress(step=0, steps=10))
    torch.testing.assert_close(losses["loss"], 2 * torch.stack(each).mean(), rtol=1e-5, atol=1e-6)
    alone = [loss for (query, _), loss in zip(pairs, each, strict=True) if query in VIEWS]
    torch.testing.assert_close(losses["loss_global"], torch.stack(alone).sum().detach(), rtol=1e-5, atol=1e-6)
