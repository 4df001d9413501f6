"""What a run reads, and checks, before it begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from layergraft.config.recipe import Recipe
from layergraft.data.cache import decoded_once
from layergraft.data.skipped import NotedImages, SkippedImages
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.batchnorm import BatchNorm
from layergraft.encoders.input_statistics import default_statistics
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.splits import draw_splits
from layergraft.graft.apply import stage_plan
from layergraft.graft.donors import load_donor
from layergraft.objectives.create import create_objective, know_classes
from layergraft.training.memory import free_memory

CACHE = "cache"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The images of a run as it split them, and the statistics they are normalised by.

    Args:
        train: training images.
        holdout: held-out images; they never train anything.
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel.
    """

    train: Source
    holdout: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _statistics(name: str, source: Source, own: tuple[float, ...] | None, channels: int) -> tuple[float, ...] | None:
    """Mean or standard deviation that the source gives, one number a channel; None where it has no say in it."""
    if own is None:
        return None
    if len(own) != channels:
        if f"{name}=" not in source.spec:  # a built-in set's own, which no user gave
            return None
        raise UserError(
            f"{source.spec!r} has {len(own)} number(s) as {name}; the encoder has {channels} channel(s).",
            f"Give one number a channel: {name}={','.join(['0.5'] * channels)}.",
        )
    return own


def load_data(recipe: Recipe, out: Path | None = None) -> RunData:
    """Open the images of a recipe and split them.

    Args:
        recipe: names the images.
        out: the run; the index of the images lies in it, where it may be one.

    Raises:
        UserError: the recipe names no images, or they cannot be opened.
    """
    if recipe.data.source is None:
        raise UserError("The recipe names no images.", "Give --data FOLDER (or builtin:fashion-canvas).")
    index = out / "index" if out and ((out / "recipe.yaml").is_file() or not out.exists()) else None
    source = open_source(recipe.data.source, index)
    train, holdout = split_holdout(source, recipe.data.holdout, recipe.seed, recipe.data.holdout_by)
    channels = recipe.encoder.in_chans
    mean, std = default_statistics(channels)
    return RunData(
        train=train,
        holdout=holdout,
        mean=recipe.data.mean or _statistics("mean", source, source.mean, channels) or mean,
        std=recipe.data.std or _statistics("std", source, source.std, channels) or std,
    )


def keep_decoded(recipe: Recipe, out: Path, data: RunData) -> RunData:
    """Keep decoded images, where the recipe says so; on disk they lie in `OUT/cache`."""
    whole = data.train.subset(np.concatenate((data.train.keys, data.holdout.keys)))
    free = partial(free_memory, torch.device("cpu"))
    images = decoded_once(whole, recipe.data.cache, out / CACHE, free)
    return replace(data, train=replace(data.train, images=images), holdout=replace(data.holdout, images=images))


def note_unreadable(data: RunData, skipped: SkippedImages) -> RunData:
    """The same data, whose held-out images are noted where they cannot be read."""
    return replace(data, holdout=replace(data.holdout, images=NotedImages(data.holdout, skipped)))


def check_recipe(recipe: Recipe, encoder: Encoder, train: Source, out: Path) -> None:
    """Find what would stop the run later, before anything is written.

    Raises:
        UserError: a plan does not fit the encoder, a source cannot be read, or there are more shots than images of a
            class.
    """
    sources: set[str] = set()
    for name, stage in recipe.stages.items():
        objective = create_objective(know_classes(stage.objective, train, name), encoder)
        if min(stage.batch_size, len(train)) < 2 and any(isinstance(part, BatchNorm) for part in objective.modules()):
            raise UserError(
                f"The batch of stage {name!r} has one image, and its heads normalise over the batch (BatchNorm).",
                f"Use at least two images, and --stages.{name}.batch_size 2 or more.",
            )
        sources |= {row.source for row in stage_plan(stage, name, encoder, objective)[1].rows}
    own = (out / "stages").resolve()
    for source in sorted(sources - {"previous", "fresh"}):
        # A stage of this run is still to be made, however its path is written.
        if not Path(source).expanduser().resolve().is_relative_to(own):
            load_donor(source, recipe.encoder)
    if recipe.evaluate is not None and train.labels is not None and recipe.evaluate.frozen_protocols:
        draw_splits(train, recipe.evaluate.frozen_shots, 1)
