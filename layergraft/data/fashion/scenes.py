"""`builtin:fashion-scenes`: small scenes of several of the built-in garments, with exact masks.

A scene is a function of its number: two to four garments, each embedded image in one scene at most, mirrored or not, at
random places in different quarters. Only pixels above a level are pasted, and those are the mask: it is exact by
construction. No pixel is resampled, so the scenes are the same bits everywhere.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from layergraft.data.arrays import Pixels
from layergraft.data.fashion.load import CLASSES, ArrayImages, embedded
from layergraft.data.masks import ArrayMasks
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source

SIDE = 72
QUARTER = SIDE // 2
MOST = 4
LEVEL = 20  # grey levels up to this one are background
STATISTICS = ((0.13,), (0.278,))
SCENE_CLASSES = ["background", *CLASSES]


@cache
def scenes(split: str) -> tuple[Pixels, Pixels]:
    """(images, masks) of a split, each of shape (N, SIDE, SIDE); masks hold 1 for background, 2 for the first class."""
    garments, labels = embedded(split)
    random = Randomness(seed=0, scope=f"fashion-scenes {split}")
    order = random.permutation("garments", np.arange(len(garments)), 0)
    count, side = len(garments) // MOST, garments.shape[1]
    draws = random.uniform("layout", np.arange(count), 0, 1 + 4 * MOST)
    images = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
    masks = np.ones_like(images)
    for index, (several, *layout) in enumerate(draws.tolist()):
        quarters = np.argsort(layout[3 * MOST :])
        for place in range(2 + int(several * (MOST - 1))):
            garment, label = garments[order[MOST * index + place]], labels[order[MOST * index + place]]
            row, column, mirrored = layout[3 * place : 3 * place + 3]
            down, right = divmod(int(quarters[place]), 2)
            top = down * QUARTER + int(row * (QUARTER - side + 1))
            left = right * QUARTER + int(column * (QUARTER - side + 1))
            garment = garment[:, ::-1] if mirrored < 0.5 else garment
            visible = garment > LEVEL
            images[index, top : top + side, left : left + side][visible] = garment[visible]
            masks[index, top : top + side, left : left + side][visible] = label + 2
    return images, masks


def open_scenes(spec: str, split: str) -> Source:
    """The scenes of a split as a SOURCE with masks."""
    images, masks = scenes(split)
    return Source(
        spec=spec,
        images=ArrayImages(images),
        keys=np.arange(len(images), dtype=np.int64),
        masks=ArrayMasks(masks),
        classes=SCENE_CLASSES,
        fingerprint=f"fashion-scenes-{split}-1",
        mean=STATISTICS[0],
        std=STATISTICS[1],
    )
