"""From numbers of any depth to grey levels.

With a range (LOW, HIGH) a level is round(clip((x - LOW) / (HIGH - LOW), 0, 1) · 255). Without one whole numbers of b
bits keep their upper 8. Pictures of 8 bits have a range of their own, 0 to 255, and keep it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Pixels
from layergraft.data.decode.options import Range
from layergraft.data.decode.picture import BadImage, Picture, is_missing
from layergraft.runs.readable import counted

_MOST_BITS = 16  # of whole numbers whose range is taken to be that of their type
GIVE_RANGE = "give ?range=LOW,HIGH or ?range=auto"


def levels(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """Map numbers of any type through a range, in float64; NaN becomes black."""
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.asarray(np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 1) * 255), dtype=np.uint8)


@lru_cache(maxsize=64)
def _table(dtype: str, low: float, high: float) -> Pixels:
    """The grey level of each of the 65,536 numbers of 16 bits, in the order of their bits."""
    return levels(np.arange(2**16, dtype=np.uint16).view(dtype), low, high)


@lru_cache(maxsize=64)
def _is_a_line(low: float, high: float) -> bool:
    """Whether OpenCV's multiplication, of float32, gives the level of each of the 65,536 numbers, as the table does."""
    if low > 0:  # it takes absolute values
        return False
    numbers = np.arange(2**16, dtype=np.uint16)[np.newaxis]
    return bool(np.array_equal(_line(numbers, low, high)[0], _table("<u2", low, high)))


def _line(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    scale = 255 / (high - low)
    return np.asarray(cv2.convertScaleAbs(values, alpha=scale, beta=-low * scale), dtype=np.uint8).reshape(values.shape)


def _looked_up(values: npt.NDArray[Any], table: Pixels) -> Pixels:
    """An entry of a table for each number of 16 bits."""
    bits = values.view(np.uint16)
    try:
        return np.asarray(cv2.LUT(bits, table[np.newaxis]), dtype=np.uint8).reshape(values.shape)
    except cv2.error:  # OpenCV before 5 looks up 8 bits alone
        return table[bits]


def _mapped(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    if values.dtype.kind not in "iu" or values.dtype.itemsize != 2:
        return levels(values, low, high)
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if values.dtype.kind == "u" and _is_a_line(low, high):
        return _line(values, low, high)  # three times as fast
    return _looked_up(values, _table(values.dtype.str, low, high))


def is_plain(picture: Picture) -> bool:
    """Whether the numbers are grey levels already."""
    return picture.array.dtype == np.uint8 and picture.depth() == 8


def needs_range(picture: Picture) -> bool:
    """Whether nobody knows what black and white are, unless a range is given."""
    unsigned = picture.array.dtype.kind in "ub" and picture.depth() <= _MOST_BITS
    return not unsigned and picture.range is None


def _upper_bits(values: npt.NDArray[Any], bits: int) -> Pixels:
    if bits < 8:  # 2 bits hold 0 to 3: black to white
        return np.asarray(np.minimum(values, 2**bits - 1).astype(np.uint16) * 255 // (2**bits - 1), dtype=np.uint8)
    if values.dtype.itemsize == 2:
        # In one pass, without a second array of 16 bits: what lies between two levels is rounded down to the lower.
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
        step = 2.0 ** (8 - bits)
        rounded = cv2.convertScaleAbs(values, alpha=step, beta=(step - 1) / 2)
        return np.asarray(rounded, dtype=np.uint8).reshape(values.shape)
    return np.asarray(np.minimum(values >> (bits - 8), 255), dtype=np.uint8)


def to_levels(picture: Picture, given: Range | None) -> Pixels:
    """Map a picture to grey levels at its full depth.

    Args:
        picture: with the channels that are wanted.
        given: the range that the SOURCE or an encoder says, one for all channels but alpha, or one for each.

    Returns:
        uint8 of shape (H, W, C).

    Raises:
        BadImage: nobody knows the range, or there are not as many as channels.
    """
    array = picture.array
    if is_plain(picture):
        return array
    ranges = given or (None if picture.range is None else (picture.range,))
    if ranges is None:
        if needs_range(picture):
            raise BadImage(f"{array.dtype} pixels, whose range no one knows: {GIVE_RANGE}")
        return _upper_bits(array.view(np.uint8) if array.dtype == np.bool_ else array, picture.depth())
    levels = _through(picture, ranges)
    if picture.nodata is not None:
        levels[is_missing(array, picture.nodata)] = 0
    return levels


def _through(picture: Picture, ranges: Range) -> Pixels:
    array, count = picture.array, picture.array.shape[2]
    opaque = [channel for channel in range(count) if channel != picture.alpha]
    if len(ranges) == 1 and len(opaque) == count:
        return _mapped(array, *ranges[0])
    if len(ranges) not in (1, len(opaque)):
        raise BadImage(f"{counted(len(opaque), 'channel')}, but ?range= has {counted(len(ranges), 'pair')}")
    result = np.empty(array.shape, dtype=np.uint8)
    for position, channel in enumerate(opaque):
        result[:, :, channel] = _mapped(array[:, :, channel], *ranges[position if len(ranges) > 1 else 0])
    if picture.alpha is not None:
        if array.dtype.kind != "u":
            raise BadImage(f"{array.dtype} pixels with transparency")
        result[:, :, picture.alpha] = _upper_bits(array[:, :, picture.alpha], picture.depth())
    return result
