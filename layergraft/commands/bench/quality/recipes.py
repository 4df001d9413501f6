"""One of our recipes at a budget: what its steps cost, its lengths, and its training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from layergraft.commands.bench.quality.core_seconds import CoreSeconds
from layergraft.commands.study.study_recipe import with_length
from layergraft.config import Recipe
from layergraft.config.loading import load_recipe
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import Encoder
from layergraft.runs.cpu_time import cpu_seconds
from layergraft.runs.layout import stage_directory
from layergraft.training.cost import relative_cost
from layergraft.training.launch import launch
from layergraft.training.loop import train_stage
from layergraft.training.run import Training
from layergraft.training.run_data import CACHE
from layergraft.training.stage import StageRun

WARM, PILOT = 4, 16  # steps until a step takes what it takes, and of a pilot in all


class CountedTraining(Training):
    """A run whose loops are counted: from a stage's first batch to its last checkpoint, a guard's looks included.

    Opening the images, building a stage and writing its encoder are not.

    Args:
        recipe: what to do.
        out: the run's directory.
        counted: counts, a part for every stage.
    """

    def __init__(self, recipe: Recipe, out: Path, counted: CoreSeconds) -> None:
        super().__init__(recipe, out, launch())
        self.counted = counted

    def loop(self, stage: StageRun) -> None:
        if not any((stage.directory / "checkpoints").glob("*.pt")):  # also where somebody removed them
            self.counted.forget(stage.name)
        with self.counted.of(stage.name):
            super().loop(stage)


class _Pilot(Training):
    """A few steps of every stage, each looked at: stage -> core-seconds of a step, once warm."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        super().__init__(recipe, out, launch())
        self.per_step: dict[str, float] = {}

    def loop(self, stage: StageRun) -> None:
        at: dict[int, float] = {}

        def report(row: dict[str, Any], _: int) -> None:
            at[row["step"]] = cpu_seconds()

        train_stage(self.process, stage, report, self.display.say)
        self.per_step[stage.name] = (at[PILOT] - at[WARM]) / (PILOT - WARM)


def pilot(recipe: Recipe) -> dict[str, float]:
    """Stage -> core-seconds of a step, from a few steps of each by the training loop itself.

    Args:
        recipe: at any length.
    """
    short = {
        name: structs.replace(
            stage, steps=PILOT, epochs=None, warmup_steps=0, warmup_epochs=0, progressive=(), guard=None
        )
        for name, stage in recipe.stages.items()
    }
    engine = structs.replace(recipe.engine, log_every=WARM)
    with tempfile.TemporaryDirectory() as folder:
        run = _Pilot(structs.replace(recipe, stages=short, engine=engine), Path(folder))
        run.train()
        encoder = run.encoder
    # Parts of a stage on smaller images, or fewer patches, are counted by the patches that they see.
    return {name: seconds * relative_cost(recipe.stages[name], encoder) for name, seconds in run.per_step.items()}


def fitted(recipe: Recipe, per_step: Mapping[str, float], budget: float, images: int) -> Recipe:
    """The recipe with all stages and their warm-ups longer or shorter by one factor, so that they take a budget.

    Args:
        recipe: at any length.
        per_step: stage -> core-seconds of a step.
        budget: core-seconds of all stages.
        images: that train.
    """
    whole = sum(
        stage.total_steps(stage.steps_per_epoch(images)) * per_step[name] for name, stage in recipe.stages.items()
    )
    return structs.replace(
        recipe, stages={name: with_length(stage, budget / whole) for name, stage in recipe.stages.items()}
    )


def train_recipe(recipe: Recipe, run: Path) -> tuple[Encoder, dict[str, Any]]:
    """Train a recipe that was fitted to a budget, or go on with it as it was fitted then.

    Args:
        recipe: at its length.
        run: directory of the run.

    Returns:
        (the encoder that is measured, `core_seconds`, `steps` and `per_step`).

    Raises:
        Stopped: a signal came; everything is saved.
    """
    counted = CoreSeconds(run.with_name(f"{run.name}.seconds.json"))
    if counted.lost:
        shutil.rmtree(run, ignore_errors=True)
    training = CountedTraining(
        load_recipe(run / "recipe.yaml") if (run / "recipe.yaml").is_file() else recipe, run, counted
    )
    training.open("auto")
    training.train()
    shutil.rmtree(run / CACHE, ignore_errors=True)
    steps = {name: _steps(training, name) for name in training.recipe.stages}
    last = list(training.recipe.stages)[-1]
    directory = stage_directory(run, training.recipe, last)
    kind = "encoder" if training.recipe.stages[last].ema is None else "encoder_ema"
    found = {
        "core_seconds": counted.total,
        "steps": steps,
        "per_step": {name: counted.seconds[name] / steps[name] for name in steps},
    }
    return load_encoder(directory / kind).eval(), found


def _steps(training: Training, name: str) -> int:
    stage = training.recipe.stages[name]
    return stage.total_steps(stage.steps_per_epoch(len(training.data.train)))
