"""A look at a few images of a source, to say where an encoder would see much less of them than there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layergraft.data.decode import BadImage
from layergraft.data.randomness import Randomness
from layergraft.data.sources.blocks import BlockImages
from layergraft.data.sources.files import FileImages
from layergraft.data.sources.source import Source

LOOKED_AT = 16
FEWER_PIXELS = 4  # so many times shorter than the image is the encoder's side where it is worth a word
SIDES = (96, 224)  # what is proposed to smaller encoders
_SPREAD, _SHARE = 24, 0.01  # of grey levels between channels, and of pixels: less is the noise of a JPEG


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """What a few images are like.

    Args:
        images: how many could be looked at.
        coloured: how many of them hold colour.
        side: median of their shorter sides in pixels.
    """

    images: int
    coloured: int
    side: int


def look_at(source: Source) -> FirstLook:
    """Look at up to 16 images spread over a source; at none of one that lies far away."""
    files = source.images
    if isinstance(files, BlockImages) or (isinstance(files, FileImages) and files.root.remote):
        return FirstLook(images=0, coloured=0, side=0)
    order = Randomness(seed=0, scope="first look").permutation("sample", source.keys, 0, first=LOOKED_AT)
    coloured, sides = 0, []
    for key in source.keys[order].tolist():
        whole: list[tuple[int, int]] = []

        def smallest(height: int, width: int, whole: list[tuple[int, int]] = whole) -> int:
            whole.append((height, width))
            return 8

        try:
            pixels = source.images.load(key, 3, smallest)
        except BadImage:
            continue
        sides.append(min(whole[-1] if whole else pixels.shape[:2]))
        coloured += bool((np.ptp(pixels, axis=2) > _SPREAD).mean() > _SHARE)
    return FirstLook(images=len(sides), coloured=coloured, side=int(np.median(sides)) if sides else 0)


def remark(look: FirstLook, in_chans: int, img_size: int, patch_size: int, start: str | None) -> str | None:
    """One line where the encoder's channels or size suit the images badly, with the keys to set; else None.

    Args:
        look: what the images are like.
        in_chans: channels of the encoder's input.
        img_size: its side in pixels.
        patch_size: side of a patch.
        start: the ENC that the run starts from, if any: its weights may need the three channels of grey images.
    """
    said, keys = [], []
    if in_chans == 1 and 2 * look.coloured >= max(1, look.images):
        said.append(f"{look.coloured} of {look.images} images looked at hold colour, which encoder.in_chans 1 drops")
        keys.append("--encoder.in_chans 3")
    elif in_chans == 3 and look.images and not look.coloured and start is None:
        said.append(f"all {look.images} images looked at are grey, and encoder.in_chans is 3")
        keys.append("--encoder.in_chans 1")
    larger = next((side for side in SIDES if side > img_size), None)
    if larger is not None and look.side >= FEWER_PIXELS * img_size:
        fitting = min(larger, look.side) // patch_size * patch_size
        said.append(f"their shorter side is {look.side} pixels (median), and encoder.img_size is {img_size}")
        keys.append(f"--encoder.img_size {fitting}")
    if not said:
        return None
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}. To change it: {' '.join(keys)}"
