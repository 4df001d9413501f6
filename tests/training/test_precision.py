"""`engine.precision: auto`: by a trial, once a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

import layergraft
from layergraft.config.recipe import EngineConfig
from layergraft.training import precision
from layergraft.training.precision import fastest_precision, product_speed, settle_precision

CPU = torch.device("cpu")


def machine(monkeypatch: pytest.MonkeyPatch, *, low: float) -> None:
    """A machine that multiplies 16 bits `low` times as fast as 32."""
    speeds = {torch.bfloat16: 100.0 * low, torch.float32: 100.0}
    monkeypatch.setattr(precision, "product_speed", lambda device, dtype: speeds[dtype])


@pytest.mark.parametrize(("low", "chosen"), [(0.2, "32-true"), (1.2, "32-true"), (3.5, "bf16-mixed")])
def test_chosen_by_the_speed_of_products(monkeypatch: pytest.MonkeyPatch, low: float, chosen: str) -> None:
    machine(monkeypatch, low=low)
    name, speed = fastest_precision(CPU)
    assert name == chosen
    assert speed == (100 * low if chosen == "bf16-mixed" else 100)
    assert settle_precision(EngineConfig(precision="auto"), CPU).precision == chosen
    assert settle_precision(EngineConfig(precision="64-true"), CPU).precision == "64-true"


def test_an_apple_gpu_trains_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, low=3.5)
    assert fastest_precision(torch.device("mps")) == ("32-true", 100)
    assert {"cpu", "cuda", "mps"} <= precision._SIDE.keys()  # every device that `launch` gives


def test_speed_of_products_is_of_this_machine() -> None:
    assert 0.1 < product_speed(CPU, torch.float32) < 1e6


def test_a_run_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A machine that is busier, or another one, goes on in the precision of the run's beginning."""
    settings = {
        "engine.precision": "auto", "stages.mae.steps": 2, "stages.graft.steps": 2, "evaluate": None, "analyze": [],
        "data.holdout": 20, "monitor.every": 0,
    }  # fmt: skip
    arguments = {"recipe": "fashion_paper", "data": "builtin:fashion", "out": tmp_path / "run", "overrides": settings}
    machine(monkeypatch, low=3.5)
    layergraft.train(**arguments)
    kept = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["engine"]
    assert kept["precision"] == "bf16-mixed"
    machine(monkeypatch, low=0.2)
    (tmp_path / "run" / "report.html").unlink()  # so that there is something to do
    layergraft.train(**arguments)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["engine"] == kept


@pytest.mark.parametrize("again", [False, True])
def test_products_in_16_bits_leave_fused_attention_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, again: bool
) -> None:
    """On a processor it is slower there; nor is it taken where the backward pass computes blocks again."""
    fused, types = functional.scaled_dot_product_attention, set()

    def noting(q: Tensor, *others: Any, **options: Any) -> Tensor:
        types.add(q.dtype)
        return fused(q, *others, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noting)
    settings = {
        "engine.precision": "bf16-mixed", "engine.activation_checkpointing": again, "evaluate": None,
        "stages.mae.steps": 1, "stages.graft.steps": 1, "analyze": [], "data.holdout": 20, "monitor.every": 0,
    }  # fmt: skip
    layergraft.train(recipe="fashion_paper", data="builtin:fashion", out=tmp_path / "run", overrides=settings)
    assert types == {torch.float32}  # of what counts operations and looks at the trained encoder
