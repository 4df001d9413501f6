"""Arrays that NumPy saved (`.npy`): one image, (H, W), (H, W, C) or, where that is plain from its sizes, (C, H, W)."""

from __future__ import annotations

import io
import math
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.picture import BadImage, Picture, Request, as_channels_last, check_size, damage_named

START = b"\x93NUMPY"
_LARGEST = 2**40  # rows or columns
CHANNELS = 16  # at most, where an axis of channels is told by its size


def is_planar(shape: tuple[int, ...]) -> bool:
    """Whether channels come before rows and columns: an axis of a few before two that are longer."""
    return len(shape) == 3 and shape[0] <= CHANNELS < min(shape[1:])


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read what comes before the numbers: (shape, whether the first axis is the quickest, type of the numbers).

    Raises:
        ValueError: it is damaged, or the array holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version {version} is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except Exception as error:  # it is a line of Python, whose parser raises whatever damage leads it to
        raise ValueError(f"its header is damaged ({type(error).__name__})") from None
    if not all(isinstance(size, int) and 0 <= size < _LARGEST for size in shape):
        raise ValueError(f"its shape {shape} is none")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not opened")
    return shape, fortran, dtype


def as_npy(array: npt.NDArray[Any]) -> bytes:
    """An array as the bytes of a `.npy` file."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def read_npy(content: bytes, request: Request) -> Picture:
    """Read one image; three channels are RGB, one is grey, others are bands.

    Raises:
        BadImage: it is damaged, or holds an array of another shape or of no numbers.
    """
    file = io.BytesIO(content)
    try:
        shape, fortran, dtype = read_header(file)
    except ValueError as error:
        raise BadImage("Python objects, not numbers" if "objects" in str(error) else "damaged") from None
    if dtype.kind not in "buif":
        raise BadImage(f"an array of {dtype}, not of numbers")
    if len(shape) not in (2, 3):
        raise BadImage(f"an array of shape {shape}: of many images give the file itself")
    if is_planar(shape):
        check_size(shape[1], shape[2], len(content))
    else:
        check_size(shape[0], shape[1], len(content))
    start, count = file.tell(), math.prod(shape)
    if count == 0 or len(content) < start + count * dtype.itemsize:
        raise BadImage("truncated" if count else "no pixels")
    with damage_named():
        array = np.frombuffer(content, dtype, count, start).reshape(shape, order="F" if fortran else "C")
    array = as_channels_last(np.moveaxis(array, 0, -1) if is_planar(shape) else array)
    return Picture(array=array, colours={1: 1, 3: 3}.get(array.shape[2], 0))
