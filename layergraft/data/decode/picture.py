"""What a reader makes of a file: an array as it is stored, with what its numbers mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.options import ReadOptions

Reduction = Callable[[int, int], int]
# Pillow refuses more than this: 600 MB of RGB from a file of any size.
MAX_PIXELS = 178_956_970
_PLASTIC = 1.32471795724474602596  # the real root of x³ = x + 1
_PIXELS_PER_BYTE = 1000  # no picture of anything is compressed so well
TURNED = "0 is white in the file; its numbers are turned over within their bits, and ?range= is of those"

# Readers are called with a file alone; how large a picture may be is said around the call.
_times = ContextVar("_times", default=1)


@contextmanager
def larger_pictures() -> Iterator[None]:
    """Read pictures of twice as many pixels, which are not kept in memory but cut into tiles."""
    token = _times.set(2)
    try:
        yield
    finally:
        _times.reset(token)


class BadImage(Exception):
    """A file that is no readable image; the text is the reason."""


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn whatever a library's reader raises over a damaged file into `BadImage`."""
    try:
        yield
    except BadImage:
        raise
    except BaseException as error:
        # A library in Rust that panics raises what is no `Exception`, so that nobody takes it for one.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BadImage(f"damaged ({type(error).__name__})") from None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image before its numbers become grey levels.

    Args:
        array: of shape (H, W, C), of any type of number; as it is meant to be seen (turned as EXIF says, 0 is black).
        colours: how many of the first channels are colours: 1 grey, 3 RGB; 0 for bands that are no colours.
        alpha: which channel is transparency, if any.
        names: of the channels, where the file has some.
        bits: how many bits of whole numbers are significant; None is all of their type.
        range: the values that are black and white by the file's own word, or None.
        remarks: what was assumed and may be chosen otherwise, in words that fit behind "3 of 16 images looked at:".
        nodata: the number that stands for no value at all: black through any range, and no part of `?range=auto`.
        turned: whether 0 is white in the file, and the numbers were turned over within their bits.
    """

    array: npt.NDArray[Any]
    colours: int = 0
    alpha: int | None = None
    names: tuple[str, ...] | None = None
    bits: int | None = None
    range: tuple[float, float] | None = None
    remarks: tuple[str, ...] = ()
    nodata: float | None = None
    turned: bool = False

    def depth(self) -> int:
        """Significant bits of whole numbers, those of their type where the file says nothing."""
        return self.bits or (1 if self.array.dtype == bool else 8 * self.array.dtype.itemsize)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of a file.

    Args:
        channels: how many the encoder takes.
        options: what follows the `?` of the SOURCE.
        whole: whether all channels are wanted as they are stored, to look at them.
        reduction: as in `decode`.
    """

    channels: int
    options: ReadOptions
    whole: bool = False
    reduction: Reduction | None = None

    @property
    def as_stored(self) -> bool:
        """Whether a reader is to give all channels as they are, rather than turn colours of 8 bits into `channels`."""
        return self.whole or self.options.channels is not None


def check_size(height: int, width: int, size: int) -> None:
    """Refuse what has no pixels, or too many.

    Args:
        height: in pixels.
        width: likewise.
        size: of the file, in bytes.

    Raises:
        BadImage: it does.
    """
    if height < 1 or width < 1:
        raise BadImage("no pixels")
    most = MAX_PIXELS * _times.get()
    if height * width > most:
        honest = size * _PIXELS_PER_BYTE >= height * width
        advice = "give ?tile=256" if most == MAX_PIXELS else "write it as a TIFF file in tiles"
        raise BadImage(f"{height * width / 1e6:.0f} megapixels: {advice}" if honest else "decompression bomb")


def check_page(page: int | None, count: int = 1) -> None:
    """Refuse a page that is wanted of a file with fewer.

    Raises:
        BadImage: it has fewer.
    """
    if page is not None and page > count:
        raise BadImage(f"no page {page}: it has {count}")


def check_slice(z: int | str | None) -> None:
    """Refuse a slice other than the first of a file that holds no stack.

    Raises:
        BadImage: it is wanted.
    """
    if isinstance(z, int) and z > 1:
        raise BadImage(f"no slice {z}: it has 1")


def spread_numbers(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Take numbers spread evenly over an image, in step with none of its rows, columns or patterns.

    Args:
        array: of shape (H, W, C).
        count: how many of each channel; all where there are no more.

    Returns:
        Shape (n, C), n at most `count`: pixels of the sequence R2 (M. Roberts, 2018, "The unreasonable effectiveness
        of quasirandom sequences"), the same for every image of a size.
    """
    height, width, channels = array.shape
    if height * width <= count:
        return array.reshape(-1, channels)
    steps = np.arange(1, count + 1)
    rows = (steps / _PLASTIC % 1 * height).astype(int)
    columns = (steps / _PLASTIC**2 % 1 * width).astype(int)
    return np.asarray(array[rows, columns])


def turn_over(array: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Numbers whose lowest is white, turned over within their bits; floats change their sign."""
    if array.dtype.kind == "f":
        return np.asarray(-array)
    return np.asarray(~array if array.dtype.kind in "bi" else (2**bits - 1 - array).astype(array.dtype, copy=False))


def is_missing(array: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    """Where an array holds the number that stands for no value, as its type rounds it."""
    return np.asarray(array == (array.dtype.type(nodata) if array.dtype.kind == "f" else nodata))


def numbers_of(picture: Picture, count: int) -> npt.NDArray[Any]:
    """Some numbers of a picture, as `spread_numbers` takes them; NaN is what stands for no value."""
    numbers = spread_numbers(picture.array, count)
    if picture.nodata is None or not (missing := is_missing(numbers, picture.nodata)).any():
        return numbers
    return np.where(missing, np.nan, numbers)


def as_channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) or (H, W, C) -> (H, W, C)."""
    return array[:, :, np.newaxis] if array.ndim == 2 else array
