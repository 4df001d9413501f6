"""The recipe of an arm as a study trains it."""

from __future__ import annotations

import torch
from msgspec import structs

from layergraft.config import Recipe, StageConfig


def study_recipe(recipe: Recipe) -> Recipe:
    """The recipe as a study trains it: nothing is measured, only a guard looks, one checkpoint is kept."""
    guarded = any(stage.guard is not None for stage in recipe.stages.values())
    workers = recipe.data.workers if torch.cuda.is_available() else 0  # on a CPU each job has one thread
    return structs.replace(
        recipe,
        seed=0,
        data=structs.replace(recipe.data, workers=workers),
        monitor=recipe.monitor if guarded else structs.replace(recipe.monitor, every=0),
        engine=structs.replace(recipe.engine, keep=1),
        evaluate=None,
        analyze=(),
    )


def with_length(stage: StageConfig, length: float) -> StageConfig:
    """A stage and its warm-up with another length.

    Args:
        stage: as its recipe has it.
        length: as a factor.
    """
    if length == 1.0:
        return stage
    if stage.epochs is not None:
        stage = structs.replace(stage, epochs=stage.epochs * length)
    else:
        stage = structs.replace(stage, steps=max(1, round((stage.steps or 0) * length)))
    if stage.warmup_steps is not None:
        return structs.replace(stage, warmup_steps=round(stage.warmup_steps * length))
    return structs.replace(stage, warmup_epochs=stage.warmup_epochs * length)
