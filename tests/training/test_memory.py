"""Activation checkpointing halves the memory of a step and keeps its loss; the estimate is near what is measured."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import TINY

from layergraft.config import load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.graft.apply import set_frozen, stage_plan
from layergraft.objectives.create import create_objective
from layergraft.training.memory import memory_warning, step_memory

VIT_S = {
    "data.source": "builtin:fashion-canvas?fraction=0.027",
    "encoder": {"name": "vit_small_patch16_224", "img_size": 112, "in_chans": 3},
    "stages.graft.objective": {"name": "moco"},
    "stages.graft.views": {},
    "stages.graft.batch_size": 64,
    "monitor.every": 0,
}


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _two_steps(changes: dict[str, Any], send: Any) -> None:
    """In a process of its own: losses of two steps, peak memory above what there was before the first, the estimate."""
    torch.set_num_threads(2)
    from layergraft.graft.donors import first_encoder
    from layergraft.training.launch import launch
    from layergraft.training.run_data import load_data
    from layergraft.training.stage import prepare_stage
    from layergraft.training.trainer import Trainer

    recipe = load_recipe("fashion_paper", VIT_S | changes)
    recipe = msgspec.structs.replace(recipe, stages={"graft": recipe.stages["graft"]})
    data = load_data(recipe)
    stage = prepare_stage(recipe, "graft", Path("nowhere"), first_encoder(recipe, data.mean, data.std), data)
    trainer = Trainer(launch(), stage)
    trainer.begin()
    batches = trainer.batches()
    first = next(batches)
    copies = sum(p.numel() * 4 for module in (stage.encoder, stage.objective) for p in module.parameters())
    estimate = (
        step_memory(stage.encoder, stage.objective, stage.plan, stage.config, stage.engine, trainer.device) - copies
    )
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    losses = []
    for raw in (first, next(batches)):
        outcome = trainer.compute(raw)
        losses.append(float(outcome.losses["loss"]))
        trainer.accept(outcome)
    send.send((losses, _resident("VmHWM") - before, estimate))


def measure(**changes: Any) -> tuple[list[float], int, int]:
    receive, send = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_two_steps, args=(changes, send))
    process.start()
    send.close()
    assert receive.poll(280), "the steps took too long"
    found: tuple[list[float], int, int] = receive.recv()
    process.join()
    return found


@pytest.mark.slow
def test_activation_checkpointing_halves_the_peak() -> None:
    plain, peak, estimate = measure()
    again, less, smaller = measure(**{"engine.activation_checkpointing": True})
    print(f"peak {peak / 2**20:.0f} MiB, with checkpointing {less / 2**20:.0f} MiB ({less / peak:.2f})")
    print(f"estimates {estimate / 2**20:.0f} and {smaller / 2**20:.0f} MiB; losses {plain} {again}")
    assert less <= peak / 2
    assert again == pytest.approx(plain, abs=1e-5)
    assert estimate == pytest.approx(peak, rel=0.35)
    assert smaller == pytest.approx(less, rel=0.35)


def estimate_of(stage: str, **changes: Any) -> int:
    recipe = load_recipe("fashion_paper", {k: v for k, v in TINY.items() if k.startswith("encoder")} | changes)
    encoder = create_encoder(recipe.encoder, 0)
    config = recipe.stages[stage]
    objective = create_objective(config.objective, encoder)
    rows, plan = stage_plan(config, stage, encoder, objective)
    set_frozen(rows, plan)
    objective.begin_stage(encoder)
    return step_memory(encoder, objective, plan, config, recipe.engine, torch.device("cpu"))


@pytest.mark.parametrize("stage", ["mae", "graft"])
def test_estimates_follow_what_saves_memory(stage: str) -> None:
    wide = {"encoder.embed_dim": 256, "encoder.depth": 6, f"stages.{stage}.batch_size": 128}
    plain = estimate_of(stage, **wide)
    assert estimate_of(stage, **wide | {f"stages.{stage}.batch_size": 256}) > 1.5 * plain
    assert estimate_of(stage, **wide | {"engine.micro_batch": 16}) < 0.8 * plain
    assert estimate_of(stage, **wide | {"engine.activation_checkpointing": True}) < 0.8 * plain
    assert estimate_of(stage, **wide | {"engine.precision": "bf16-mixed"}) < plain
    assert estimate_of(stage, **wide | {"engine.precision": "64-true"}) == pytest.approx(2 * plain, rel=0.02)
    assert estimate_of(stage, **wide | {f"stages.{stage}.ema": 0.99}) > plain


def test_a_stage_that_does_not_fit_is_warned_of() -> None:
    assert memory_warning("mae", 2**20, torch.device("cpu")) is None
    warning = memory_warning("mae", 2**60, torch.device("cpu"))
    assert warning is not None
    assert "needs about" in warning
