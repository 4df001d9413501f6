"""The optimizer and schedule that a stage is configured with, against torch's own and numbers by hand."""

from __future__ import annotations

import msgspec
import pytest
import torch

from layergraft.config import OptimizerConfig, StageConfig
from layergraft.training.optim import build_optimizer, lr_factor


def test_schedule_ends_where_it_is_told() -> None:
    assert lr_factor(0, 10, 2, 0.1) == 0
    assert lr_factor(1, 10, 2, 0.1) == 0.5
    assert lr_factor(2, 10, 2, 0.1) == 1
    assert lr_factor(6, 10, 2, 0.1) == pytest.approx(0.1 + 0.9 * 0.5)
    assert lr_factor(10, 10, 2, 0.1) == pytest.approx(0.1)


def test_sgd() -> None:
    """SGD's decay joins the gradient: w - lr (g + d w), then with momentum m: w - lr (m b + g + d w)."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    settings = OptimizerConfig(name="sgd", momentum=0.5, weight_decay=0.1)
    optimizer = build_optimizer(settings, [{"params": [weight], "lr": 0.1, "weight_decay": 0.1}])
    for gradient in (1.0, -1.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    first = 2.0 - 0.1 * (1 + 0.1 * 2.0)
    second = first - 0.1 * (0.5 * (1 + 0.2) + (-1 + 0.1 * first))
    assert float(weight.detach()) == pytest.approx(second, rel=1e-6)
    with pytest.raises(msgspec.ValidationError, match="lion"):
        msgspec.convert({"objective": {"name": "mae"}, "optimizer": {"name": "lion"}}, StageConfig)
