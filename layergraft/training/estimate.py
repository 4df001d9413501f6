"""How long a stage will take on this machine, from a short piece of it that is run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import msgspec
import torch

from layergraft.config.recipe import Recipe
from layergraft.encoders.vit import create_encoder
from layergraft.training.launch import Process, launch
from layergraft.training.run_data import RunData
from layergraft.training.stage import prepare_stage
from layergraft.training.trainer import Trainer

TRIED = {"cpu": 2 * 10**11, "cuda": 2 * 10**13}  # operations that are run at most: about a second
FEWEST = 2  # images: BatchNorm's statistics need two


def stage_seconds(
    recipe: Recipe, name: str, data: RunData, batch_size: int, steps: int, flops: int
) -> tuple[float | None, str]:
    """Seconds of all steps of a stage, with fresh weights, by the training loop's own step.

    Args:
        recipe: with this stage.
        name: the stage.
        data: training and held-out images.
        batch_size: images of a step.
        steps: of the stage.
        flops: operations of one step.

    Returns:
        (seconds or None, how they were found or why not).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = min(batch_size, int(TRIED[device] * batch_size / flops))
    if images < FEWEST:
        gflop = FEWEST * flops / batch_size / 1e9
        return None, f"not tried on this {device}: {FEWEST} images take {gflop:,.0f} GFLOP"
    config = recipe.stages[name]
    # Weights that take long to load, or are not there yet, would make no difference.
    plan = msgspec.structs.replace(
        config.plan, source={}, heads=msgspec.structs.replace(config.plan.heads, source="fresh")
    )
    stage = msgspec.structs.replace(config, batch_size=images, plan=plan)
    piece = msgspec.structs.replace(recipe, start=None, stages={name: stage})
    encoder = create_encoder(recipe.encoder, 0)
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_stage(piece, name, Path(folder), encoder, data, Process(device=device))
        trainer = Trainer(launch(), run)
        batch = run.loader.batch(0)
    trainer.begin()
    trainer.accept(trainer.compute(batch))  # the first step takes memory and chooses kernels
    began = _now(device)
    outcome = trainer.compute(batch)
    computed = _now(device)
    trainer.accept(outcome)
    whole = (computed - began) * batch_size / images + (_now(device) - computed)
    return steps * whole, (
        f"from one step of {images} images on this {device}; excludes loading images, online evaluation and checkpoints"
    )


def _now(device: str) -> float:
    """The time, once a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
