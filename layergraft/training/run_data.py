"""What a run reads, and checks, before it begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
import numpy as np
import torch

from layergraft.config.loading import read_run_recipe
from layergraft.config.recipe import Recipe
from layergraft.data.cache import decoded_once
from layergraft.data.decode.options import parse_read_options, with_options
from layergraft.data.first_look import look_at, remark, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.skipped import NotedImages, SkippedImages
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import AS_THEY_ARE, Source
from layergraft.encoders.input_statistics import default_statistics
from layergraft.encoders.provenance import trained_reading
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.readable import counted
from layergraft.runs.resume import is_unused
from layergraft.training.memory import free_memory

CACHE = "cache"
IMAGES = "images.json"  # what the images were when the run began: see `check_contents`


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

    @property
    def whole(self) -> Source:
        """Training and held-out images together."""
        return self.train.subset(np.concatenate((self.train.keys, self.holdout.keys)))


def _statistics(
    name: str, source: Source, statistic: tuple[float, ...] | None, channels: int
) -> tuple[float, ...] | None:
    """Mean or standard deviation that the source gives, one number a channel; None where it has no say in it."""
    if statistic is None:
        return None
    if len(statistic) != channels:
        if f"{name}=" not in source.spec:  # a built-in set's own, which no user gave
            return None
        raise UserError(
            f"{source.spec!r} has {counted(len(statistic), 'number')} as {name}; the encoder has "
            f"{counted(channels, 'channel')}.",
            f"Give one number a channel: {name}={','.join(['0.5'] * channels)}.",
        )
    return statistic


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
    index = out / "index" if out and ((out / "recipe.yaml").is_file() or is_unused(out)) else None
    known = AS_THEY_ARE if recipe.start is None else trained_reading(recipe.start)
    source = open_source(recipe.data.source, index, begun=out is not None and (out / IMAGES).is_file())
    source = settle(source, recipe.encoder.in_chans, announce, known, f"start {recipe.start!r}", is_training=True)
    train, holdout = split_holdout(source, recipe.data.holdout, recipe.seed, recipe.data.holdout_by)
    channels = recipe.encoder.in_chans
    mean, std = default_statistics(channels)
    return RunData(
        train=train,
        holdout=holdout,
        mean=recipe.data.mean or _statistics("mean", source, source.mean, channels) or mean,
        std=recipe.data.std or _statistics("std", source, source.std, channels) or std,
    )


def read_as_begun(recipe: Recipe, out: Path) -> Recipe:
    """A recipe whose images are read as the run in a directory reads them, where it leaves that open.

    A range `auto`, or what a `start` knew, was found when the run began: it goes on with the very same numbers.
    """
    spec = recipe.data.source
    if spec is None or not (out / "recipe.yaml").is_file():
        return recipe
    begun = read_run_recipe(out).data.source
    if begun is None or with_options(begun, AS_THEY_ARE) != with_options(spec, AS_THEY_ARE):
        return recipe  # whoever opens the run will say that it is another one
    wanted, known = (parse_read_options(dict(parse_qsl(text.partition("?")[2])), text) for text in (spec, begun))
    if wanted.range == "auto":
        wanted = replace(wanted, range=None)
    options = wanted.or_else(known)
    if options == known and begun != spec:
        announce(f"The run in {out} goes on with its images as they were read: {begun}")
        return with_source(recipe, begun)
    return recipe


def with_source(recipe: Recipe, spec: str) -> Recipe:
    """The same recipe with another SOURCE."""
    return msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, source=spec))


def remarks_on(recipe: Recipe, encoder: Encoder, train: Source, chosen: bool = False) -> list[str]:
    """What is to be said about the images: as they were opened and are read, and where the encoder sees much less.

    Args:
        recipe: the run's.
        encoder: its encoder.
        train: the images.
        chosen: whether the recipe was chosen for these images, so that their size and channels were thought of.
    """
    look = look_at(train, encoder.in_chans)
    size = (encoder.in_chans, encoder.img_size, encoder.patch_size)
    fitting = None if chosen else remark(look, *size, recipe.start)
    return [*train.remarks, *remarks_on_files(look, train), *([fitting] if fitting else [])]


def keep_decoded(recipe: Recipe, out: Path, data: RunData) -> RunData:
    """Keep decoded images, where the recipe says so; on disk they lie in `OUT/cache`."""
    free = partial(free_memory, torch.device("cpu"))
    images = decoded_once(data.whole, recipe.data.cache, out / CACHE, free)
    return replace(data, train=replace(data.train, images=images), holdout=replace(data.holdout, images=images))


def note_unreadable(data: RunData, skipped: SkippedImages) -> RunData:
    """The same data, whose held-out images are noted where they cannot be read."""
    return replace(data, holdout=replace(data.holdout, images=NotedImages(data.holdout, skipped)))
