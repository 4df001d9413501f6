"""Losses against lightly's, and against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss, VICRegLoss
from torch import Tensor

from layergraft.config import VicregConfig
from layergraft.objectives.losses import covariance_loss, invariance_loss, moco_v3_loss, nt_xent_loss, variance_loss

from test_batches import START, build  # isort: skip


def pair(count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, width, generator=generator)
    second = first + 0.5 * torch.randn(count, width, generator=generator)
    return (0.7 * first).requires_grad_(), (0.7 * second).requires_grad_()


def assert_same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Value and gradient to 1e-5."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    for own, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert float((own - other).abs().max()) <= 1e-5 * float(other.abs().max())


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_lightly(temperature: float) -> None:
    first, second = pair(12, 8)
    ours = nt_xent_loss(first, second, first, second, temperature)
    assert_same(ours, NTXentLoss(temperature=temperature)(first, second), first, second)


def test_nt_xent_of_a_part_of_the_batch() -> None:
    first, second = pair(12, 8)
    parts = [
        nt_xent_loss(first[rows], second[rows], first, second, 0.2, rows.start) for rows in (slice(0, 4), slice(4, 12))
    ]
    expected = NTXentLoss(temperature=0.2)(first, second)
    torch.testing.assert_close((4 * parts[0] + 8 * parts[1]) / 12, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("width", [6, 40])  # fewer and more than the samples: either product is computed
def test_vicreg_equals_lightly(width: int) -> None:
    first, second = pair(16, width)
    config = VicregConfig()
    ours = config.invariance * invariance_loss(first, second)
    ours = ours + config.variance * (variance_loss(first, config.eps) + variance_loss(second, config.eps)) / 2
    ours = ours + config.covariance * (covariance_loss(first) + covariance_loss(second))
    assert_same(ours, VICRegLoss()(first, second), first, second)


def test_vicreg_is_the_sum_of_its_named_parts() -> None:
    config = VicregConfig(invariance=2.0, variance=3.0, covariance=5.0, expander=(16, 8))
    _, objective = build(config)
    first, second = pair(16, 32)
    losses, pending = objective.losses({"first": first, "second": second}, START)
    expanded = [objective.heads["expander"](view) for view in (first, second)]
    expected = VICRegLoss(lambda_param=2.0, mu_param=3.0, nu_param=5.0)(*expanded)
    torch.testing.assert_close(losses["loss"], expected)
    total = 2 * losses["invariance"] + 3 * losses["variance"] + 5 * losses["covariance"]
    torch.testing.assert_close(losses["loss"], total)
    assert pending


def test_no_batchnorm_ends_the_expander() -> None:
    """After one, every standard deviation is 1 and the variance term has no gradient."""
    _, objective = build(VicregConfig(expander=(16, 16, 8)))
    assert isinstance(objective.heads["expander"][-1], torch.nn.Linear)
    assert sum(type(layer).__name__ == "BatchNorm" for layer in objective.heads["expander"]) == 2


def test_moco_v3_loss_by_hand() -> None:
    """Two samples, orthogonal: the positive has cosine 1, the negative 0."""
    x = torch.eye(2)
    expected = 2 * 0.5 * -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 1))
    assert float(moco_v3_loss(3 * x, 5 * x, 0.5)) == pytest.approx(expected, rel=1e-6)


def test_half_precision_of_the_network_does_not_reach_the_losses() -> None:
    first, second = (x.detach() for x in pair(16, 24))

    def all_losses() -> list[float]:
        both = [moco_v3_loss(first, second, 0.2), nt_xent_loss(first, second, first, second, 0.2)]
        return [float(loss) for loss in (*both, covariance_loss(first))]

    plain = all_losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert (first @ second.T).dtype == torch.bfloat16
        assert all_losses() == plain
