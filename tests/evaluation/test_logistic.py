from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layergraft.evaluation import logistic


def _data(fixtures: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    file = load_file(fixtures / "logistic" / "features.safetensors")

    def prepared(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        x = x - x.mean(1, keepdim=True)
        return x / x.norm(dim=1, keepdim=True)

    features = (prepared(file["train_features"]), prepared(file["test_features"]))
    return features[0], file["train_labels"].long(), features[1], file["test_labels"].long()


@pytest.mark.parametrize("lambda_n", ["0.0025", "0.00025", "2.5e-05"])
def test_optimum_of_the_fixture(fixtures: Path, lambda_n: str) -> None:
    expected = json.loads((fixtures / "logistic" / "expected.json").read_text())[lambda_n]
    x, y, z, truth = _data(fixtures)
    weights = logistic.fit(x, y, 20, float(lambda_n), tolerance=1e-9)
    value = float(logistic.objective(weights, x, y, float(lambda_n) / len(x)))
    assert value == pytest.approx(expected["objective_optimum"], rel=1e-8)
    assert logistic.accuracy(weights, z, truth.numpy()) == pytest.approx(100 * expected["test_accuracy_at_optimum"])


def test_fewer_rows_than_features() -> None:
    """The gradient in the full space is zero although the problem was solved in the span of the rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 40, generator=generator, dtype=torch.float64)
    y = torch.arange(12) % 3
    weights = logistic.fit(x, y, 3, 0.1, tolerance=1e-9).requires_grad_()
    logistic.objective(weights, x, y, 0.1 / 12).backward()
    assert weights.grad is not None
    assert float(weights.grad.norm()) < 1e-9


def test_cv_prefers_the_strongest_of_equals_and_needs_two_shots() -> None:
    x = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    y = torch.arange(3).repeat(4)
    assert logistic.choose_lambda(x, y.numpy(), 3) == max(logistic.CV_LAMBDA_N)
    assert logistic.choose_lambda(x[:3], y[:3].numpy(), 3) is None
