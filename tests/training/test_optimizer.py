"""The optimizer and schedule that a stage is configured with, against torch's own and numbers by hand."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch

from layergraft.config import OptimizerConfig, StageConfig
from layergraft.training.optim import build_optimizer, clip_gradients, lr_factor


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


def test_late_decay_stays_at_the_peak() -> None:
    """Warm-up, the peak, and one minus a square root over the last 4 of 20 steps."""
    factors = [lr_factor(step, 20, 2, 0.1, cooldown=0.2) for step in range(21)]
    assert factors[:3] == [0, 0.5, 1]
    assert set(factors[2:17]) == {1}
    assert factors[18] == pytest.approx(0.1 + 0.9 * (1 - 0.5**0.5))
    assert factors[20] == pytest.approx(0.1)
    assert lr_factor(2, 4, 2, 0.0, cooldown=1.0) == 1  # a decay as long as the stage waits for the warm-up


@pytest.mark.parametrize("shrinks", [True, False])
def test_clipping_is_torchs(shrinks: bool) -> None:
    """torch's own, on parameters of the same gradients; it adds 1e-6 to the norm."""
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4, dtype=torch.float64), torch.randn(7, dtype=torch.float64)]
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    largest = 0.5 if shrinks else 100.0
    expected = torch.nn.utils.clip_grad_norm_(parameters, largest)
    norm = clip_gradients(gradients, largest, split=False)
    assert norm is not None
    assert float(norm) == pytest.approx(float(expected), rel=1e-12)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=2e-6, atol=0)
    assert clip_gradients(gradients, None, split=False) is None


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_clipping_hides_no_overflow(bad: float) -> None:
    """A gradient that is not finite stays so, and the step is thrown away."""
    gradients = [torch.tensor([1.0, bad]), torch.ones(2)]
    clip_gradients(gradients, 1.0, split=False)
    assert not torch.stack(torch._foreach_norm(gradients)).sum().isfinite()


def layer() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 2), torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    )


def steps(network: torch.nn.Module, *optimizers: torch.optim.Optimizer, first: int = 0, last: int = 4) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        network(torch.randn(5, 1, 2, 2, generator=generator)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def muon(network: torch.nn.Module) -> torch.optim.Optimizer:
    """Two groups, as a plan makes them: the layers below at a third of the learning rate."""
    parts = list(network.children())
    groups = [{"params": list(parts[0].parameters()) + list(parts[2].parameters()), "lr": 1e-3, "weight_decay": 0.05}]
    groups += [{"params": list(parts[3].parameters()), "lr": 3e-3, "weight_decay": 0.05}]
    return build_optimizer(OptimizerConfig(name="muon"), groups)


def test_muon_is_torchs_two_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices with torch's Muon, whose products are in bfloat16 on every machine, all else with its AdamW."""
    monkeypatch.setattr("layergraft.training.muon.products_dtype", lambda matrix: torch.bfloat16)
    ours, theirs = layer(), layer()
    steps(ours, muon(ours))
    matrices = {name: p for name, p in theirs.named_parameters() if p.ndim == 2}
    others = {name: p for name, p in theirs.named_parameters() if p.ndim != 2}
    rate = {name: 3e-3 if name.startswith("3") else 1e-3 for name in matrices | others}
    by_rate = {name: {"params": [p], "lr": rate[name]} for name, p in (matrices | others).items()}
    settings = {"weight_decay": 0.05}
    first = torch.optim.Muon(
        [by_rate[name] for name in matrices], momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings
    )
    second = torch.optim.AdamW([by_rate[name] for name in others], betas=(0.9, 0.95), **settings)
    steps(theirs, first, second)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-6, atol=1e-8)


def test_muon_goes_on_with_the_same_bits() -> None:
    whole, first, second = layer(), layer(), layer()
    steps(whole, muon(whole))
    optimizer = muon(first)
    steps(first, optimizer, last=2)
    second.load_state_dict(first.state_dict())
    resumed = muon(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(second, resumed, first=2)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_muons_updates_are_as_large_as_adamws() -> None:
    """Root mean square of the first update of a matrix, over AdamW's: near 1, so one learning rate serves both."""
    sizes = {}
    for name in ("muon", "adamw"):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.zeros(192, 64))
        optimizer = build_optimizer(OptimizerConfig(name=name), [{"params": [weight], "lr": 1.0, "weight_decay": 0.0}])
        for _ in range(20):
            weight.grad = torch.randn(192, 64)
            before = weight.detach().clone()
            optimizer.step()
        sizes[name] = float((weight.detach() - before).square().mean().sqrt())
    assert 0.5 < sizes["muon"] / sizes["adamw"] < 2, sizes
