"""A part of a TIFF page: the tiles, strips or bytes that hold it, and no others."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.picture import BadImage

Array = npt.NDArray[Any]


class Window(NamedTuple):
    """Where a part of an image lies.

    Args:
        file: a descriptor of the file, which threads read at places of their own.
        top: its first row.
        left: its first column.
        height: in pixels; the window lies inside the image.
        width: likewise.
    """

    file: int
    top: int
    left: int
    height: int
    width: int


def pixels_decoded(page: Any, side: int) -> int:
    """How many pixels of a page are decoded for a window of `side` by `side`, at least."""
    if page.is_memmappable:
        return side * side
    height = int(page.tilelength if page.is_tiled else page.rowsperstrip)
    width = int(page.tilewidth if page.is_tiled else page.imagewidth)
    return math.ceil(side / height) * height * math.ceil(side / width) * width


def read_window(page: Any, offset: int, window: Window) -> Array:
    """Read a part of a page.

    Args:
        page: of tifffile, or one of its frames.
        offset: where the page's numbers begin, if they lie in the file as they are; else negative.
        window: the part.

    Returns:
        An array as the page's own, its rows and columns cut to the window.

    Raises:
        BadImage: the page is a volume, or the file is cut off.
    """
    keyframe = page.keyframe
    _, depth, height, width, _ = keyframe.shaped
    if depth != 1:
        raise BadImage("a volume in one page, which is not cut into tiles")
    if window.top + window.height > height or window.left + window.width > width:
        raise BadImage(f"no such tile: it has {height} by {width} pixels")
    result = _raw(keyframe, offset, window) if offset >= 0 else _decoded(page, window)
    shape = tuple(
        {"Y": window.height, "X": window.width}.get(axis, size)
        for axis, size in zip(keyframe.axes, keyframe.shape, strict=True)
    )
    return result.reshape(shape)


def _bytes(file: int, count: int, offset: int) -> bytes:
    content = os.pread(file, count, offset)
    if len(content) != count:
        raise BadImage("truncated")
    return content


def _raw(keyframe: Any, offset: int, window: Window) -> Array:
    """Numbers that lie in the file as they are, row by row."""
    samples, _, height, width, inner = keyframe.shaped
    kind = np.dtype(keyframe.parent.byteorder + keyframe.dtype.char)
    result = np.empty((samples, window.height, window.width, inner), dtype=kind)
    size = window.width * inner * kind.itemsize
    for sample in range(samples):
        for row in range(window.height):
            before = ((sample * height + window.top + row) * width + window.left) * inner
            content = _bytes(window.file, size, offset + before * kind.itemsize)
            result[sample, row] = np.frombuffer(content, kind).reshape(window.width, inner)
    return result


def _decoded(page: Any, window: Window) -> Array:
    """Tiles or strips that overlap the window, decoded one by one."""
    keyframe = page.keyframe
    samples, _, height, width, inner = keyframe.shaped
    rows = keyframe.tilelength if keyframe.is_tiled else keyframe.rowsperstrip
    columns = keyframe.tilewidth if keyframe.is_tiled else width
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    result = np.full((samples, window.height, window.width, inner), keyframe.nodata, dtype=keyframe.dtype)
    for sample in range(samples):
        for row in range(window.top // rows, math.ceil((window.top + window.height) / rows)):
            for column in range(window.left // columns, math.ceil((window.left + window.width) / columns)):
                number = (sample * down + row) * across + column
                count = page.databytecounts[number]
                if not count:  # a tile that was left out, as it holds nothing
                    continue
                content = _bytes(window.file, count, page.dataoffsets[number])
                segment, _, _ = keyframe.decode(content, number, jpegtables=keyframe.jpegtables)
                _place(result[sample], np.asarray(segment)[0], (row * rows, column * columns), window)
    return result


def _place(result: Array, segment: Array, corner: tuple[int, int], window: Window) -> None:
    """Copy what of a segment of shape (rows, columns, samples) lies in the window."""
    top, left = corner[0] - window.top, corner[1] - window.left
    first_row, first_column = max(top, 0), max(left, 0)
    last_row = min(top + segment.shape[0], window.height)
    last_column = min(left + segment.shape[1], window.width)
    part = segment[first_row - top : last_row - top, first_column - left : last_column - left]
    result[first_row:last_row, first_column:last_column] = part
