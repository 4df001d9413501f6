"""`builtin:fashion-colour`: the canvases of `fashion-canvas` in colour.

A grey level becomes a mixture of two colours of the image's own, a darker one for the ground and a brighter one for the
garment. They are drawn at random, so they say nothing about the class, and the pixels are the same bits everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layergraft.data.fashion.load import CLASSES, COLOUR, ArrayImages, canvases, embedded
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source

BRIGHT = 96  # channels of the ground lie below it, those of the garment from it up
STATISTICS = ((0.272, 0.272, 0.273), (0.192, 0.194, 0.193))


def coloured(split: str) -> npt.NDArray[np.uint8]:
    """The images of a split, of shape (N, 36, 36, 3)."""
    levels = canvases(split)
    words = Randomness(seed=0, scope=f"{COLOUR} {split}").words("colours", np.arange(len(levels)), 0, 6)
    ground = (words[:, :3] % BRIGHT).astype(np.uint16)[:, None, None]
    garment = (BRIGHT + words[:, 3:] % (256 - BRIGHT)).astype(np.uint16)[:, None, None]
    share = levels[..., None].astype(np.uint16)
    return ((share * garment + (255 - share) * ground + 127) // 255).astype(np.uint8)  # at most 65,152


def open_colour(spec: str, split: str) -> Source:
    """The images of a split as a SOURCE."""
    labels = embedded(split)[1]
    return Source(
        spec=spec,
        images=ArrayImages(coloured(split)),
        keys=np.arange(len(labels), dtype=np.int64),
        labels=labels.astype(np.int32),
        classes=CLASSES,
        fingerprint=f"{COLOUR}-{split}-1",
        mean=STATISTICS[0],
        std=STATISTICS[1],
    )
