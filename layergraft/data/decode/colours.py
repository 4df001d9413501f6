"""From the channels that a picture has to those that an encoder takes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image as Pillow

from layergraft.data.arrays import Pixels
from layergraft.data.decode.picture import BadImage, Picture

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def bands(count: int) -> str:
    """How many, in words."""
    return f"{count} band{'' if count == 1 else 's'}"


def select(picture: Picture, channels: tuple[int | str, ...]) -> Picture:
    """A picture of some of the channels, in the given order; they are no colours any more.

    Args:
        picture: with all that the file has.
        channels: numbers from 1, or names.

    Raises:
        BadImage: the picture lacks one.
    """
    count, names = picture.array.shape[2], picture.names or ()
    positions = []
    for channel in channels:
        if isinstance(channel, str):
            if channel not in names:
                known = f"its channels are {', '.join(names)}" if names else "its channels have no names"
                raise BadImage(f"no channel {channel!r}: {known}")
            if names.count(channel) > 1:
                raise BadImage(f"{names.count(channel)} channels are called {channel!r}: give their numbers")
            positions.append(names.index(channel))
        elif channel > count:
            raise BadImage(f"no channel {channel}: it has {count}")
        else:
            positions.append(channel - 1)
    array = picture.array if positions == list(range(count)) else picture.array[:, :, positions]
    chosen = tuple(names[position] for position in positions) if names else None
    return replace(picture, array=np.ascontiguousarray(array), colours=0, alpha=None, names=chosen)


def convert(image: Pillow.Image, channels: int) -> Pixels:
    """Pixels of a Pillow image of 8 bits. Transparent ones lie on white unless alpha is asked for (2 or 4 channels)."""
    if image.mode in ("LAB", "HSV"):
        image = image.convert("RGB")
    if channels not in MODES:
        raise BadImage(f"{bands(len(image.getbands()))} instead of {channels}")
    if channels in (1, 3) and image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", colours.size, "white"), colours)
    if image.mode != MODES[channels]:  # else it would be copied
        image = image.convert(MODES[channels])
    return np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def has_spare_band(picture: Picture, channels: int) -> bool:
    """Whether the fourth band, infrared or the like, is left out: it is in no colour."""
    return picture.colours == 3 and picture.alpha is None and picture.array.shape[2] == 4 and channels in (1, 3)


def to_channels(levels: Pixels, picture: Picture, channels: int) -> Pixels:
    """Grey, RGB and transparency turn into each other; other bands are taken as they are, where there are as many.

    Args:
        levels: of the picture, of shape (H, W, C).
        picture: says which channels are colours.
        channels: how many are wanted.

    Raises:
        BadImage: another number of bands.
    """
    count = levels.shape[2]
    if count == channels and (picture.alpha is None or channels in (2, 4)):
        return levels
    known = picture.colours + (picture.alpha is not None)
    if has_spare_band(picture, channels):
        levels, count = levels[:, :, :3], 3
        if channels == 3:
            return levels
    if not picture.colours or known != count:
        raise BadImage(f"{bands(count)} instead of {channels}")
    levels = np.ascontiguousarray(levels)
    return convert(Pillow.fromarray(levels if known > 1 else levels[:, :, 0]), channels)


def match_channels(pixels: Pixels, channels: int) -> Pixels:
    """Pixels (H, W, C) of an array source with another number of channels: grey and RGB turn into each other."""
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] == 1 and channels == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if pixels.shape[2] == 3 and channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[:, :, None]
    raise BadImage(f"{bands(pixels.shape[2])} instead of {channels}")
