"""`builtin:NAME[:SPLIT]` as a source."""

from __future__ import annotations

import numpy as np

from layergraft.data.fashion.colour import open_colour
from layergraft.data.fashion.load import CLASSES, COLOUR, SCENES, STATISTICS, ArrayImages, canvases, embedded
from layergraft.data.fashion.scenes import open_scenes
from layergraft.data.sources.source import Source
from layergraft.errors import UserError, nearest


def open_builtin(spec: str, place: str) -> Source:
    """Open `builtin:fashion`, `fashion-canvas`, `fashion-colour` or `fashion-scenes`, `:train` (default) or `:test`."""
    _, name, split = (place + ":train").split(":")[:3]
    names = [*STATISTICS, COLOUR, SCENES]
    if name not in names:
        raise UserError(f"There is no built-in set {name!r}.", nearest(name, names))
    if split not in ("train", "test"):
        raise UserError(f"{place!r} has no split {split!r}.", "Use `:train` or `:test`.")
    if name == SCENES:
        return open_scenes(spec, split)
    if name == COLOUR:
        return open_colour(spec, split)
    images, labels = embedded(split)
    mean, std = STATISTICS[name]
    return Source(
        spec=spec,
        images=ArrayImages(images if name == "fashion" else canvases(split)),
        keys=np.arange(len(labels), dtype=np.int64),
        labels=labels.astype(np.int32),
        classes=CLASSES,
        fingerprint=f"{name}-{split}-1",
        mean=mean,
        std=std,
    )
