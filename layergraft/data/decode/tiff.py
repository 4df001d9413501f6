"""TIFF as ImageJ, Fiji, OME and GDAL write it, read by tifffile; by Pillow where that gives the same numbers."""

from __future__ import annotations

import io
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.axes import UNKNOWN_AXES, Choice, choose
from layergraft.data.decode.options import ReadOptions
from layergraft.data.decode.picture import BadImage, Picture, Request, check_size, check_slice, turn_over
from layergraft.data.decode.pillow import read_pillow
from layergraft.data.decode.stack import MOST_BYTES, project
from layergraft.data.decode.tiff_meaning import (
    ASSOCIATED,
    ELSEWHERE,
    channel_names,
    check_colours,
    check_parts,
    described,
    looked_up,
    meaning_of,
    unmultiplied,
)
from layergraft.data.decode.tiff_plain import plain_page
from layergraft.data.decode.tiff_tags import Directory, check_pages, geo_of, read_tags, suits_pillow, tags_of
from layergraft.data.decode.tiff_window import Window, read_window
from layergraft.data.orientation import READER_ERRORS, orientation, upright
from layergraft.errors import UserError
from layergraft.runs.readable import counted

Array = npt.NDArray[Any]
MOST_CHANNELS = 64
_OFFSETS = {273, 324}  # of strips or tiles, without which there are no pixels


def _tifffile(channels: int) -> Any:
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f"A TIFF file needs tifffile to be read as {counted(channels, 'channel')}.",
            "Install it: pip install 'layergraft[tiff]'.",
        ) from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds odd, file by file
    return tifffile


class _Planes:
    """The planes of a series: a view of the file's bytes where they lie there as they are, else decoded one by one.

    Args:
        file: tifffile's file.
        number: of the series.
        content: the file; not needed for a window.
        window: the part of each plane that is wanted, or None.
    """

    def __init__(self, file: Any, number: int, content: bytes, window: Window | None) -> None:
        self.file, self.number, self.window = file, number, window
        self.series = file.series[number]
        self.keyframe = self.series.keyframe
        self.whole: Array | None = None
        if window is None and self.series.dataoffset is not None and self.keyframe.is_memmappable:
            kind = np.dtype(file.byteorder + self.keyframe.dtype.char)
            self.whole = np.ndarray(self.series.shape, kind, content, self.series.dataoffset)

    def take(self, choice: Choice, at: int | None) -> Array:
        """One picture of shape (H, W) or, with an axis of channels, (H, W, C); `at` is a slice of the stack."""
        fixed = choice.fixed | ({} if choice.stack is None or at is None else {choice.stack: at})
        if self.whole is not None:
            index = tuple(fixed.get(p, slice(None)) for p in range(len(choice.axes)))
            return self._ordered(self.whole[index], choice)
        inner = len(self.keyframe.shape)
        leading = choice.shape[: len(choice.shape) - inner]
        outer = choice.channel if choice.channel is not None and choice.channel < len(leading) else None
        count = choice.channels if outer is not None else 1
        planes = []
        for number in range(count):
            place = [number if p == outer else fixed[p] for p in range(len(leading))]
            page = int(np.ravel_multi_index(place, leading)) if leading else 0
            plane = self._plane(page)
            index = tuple(fixed.get(p, slice(None)) for p in range(len(leading), len(choice.shape)))
            planes.append(plane[index])
        if outer is not None:
            return np.stack(planes, axis=2)
        return self._ordered(planes[0], choice)

    def _plane(self, number: int) -> Array:
        if self.series.kind == "ome" and number < len(self.series.pages) and self.series.pages[number] is None:
            raise BadImage(ELSEWHERE)
        if self.window is None:
            whole = self.file.asarray(series=self.number, key=number, maxworkers=1)
            return np.asarray(whole).reshape(self.keyframe.shape)
        at, raw = self.series.dataoffset, self.keyframe.is_memmappable
        if raw and at is not None:  # planes that follow each other, of which tifffile may list the first alone
            return read_window(self.keyframe, at + number * self.keyframe.nbytes, self.window)
        page = self.series.pages[number]
        return read_window(page, page.dataoffsets[0] if raw else -1, self.window)

    @staticmethod
    def _ordered(picture: Array, choice: Choice) -> Array:
        """Channels last: of the axes left, all but Y and X are channels."""
        if choice.channel is not None and choice.channel < choice.axes.index("Y"):
            return np.moveaxis(picture, 0, 2)
        return picture


def _series_of(file: Any, request: Request) -> tuple[int, Request]:
    """(number of the series that holds the wanted page, the request within it)."""
    page = request.options.page
    if page is None:
        return 0, request
    before = 0  # pages of the series so far
    for number, series in enumerate(file.series):
        count = _pages_of(series)
        if page <= before + count:
            return number, replace(request, options=replace(request.options, page=page - before))
        before += count
    raise BadImage(f"no page {page}: it has {before}")


def _larger_behind(file: Any, request: Request) -> tuple[str, ...]:
    """What is to be said where a thumbnail lies before the picture and nobody chose."""
    if request.options.page is not None:
        return ()
    first, page = file.series[0].keyframe, 1
    for series in file.series:
        if series.keyframe.imagelength * series.keyframe.imagewidth > first.imagelength * first.imagewidth:
            size = f"{first.imagelength} by {first.imagewidth} pixels"
            larger = f"page {page} has {series.keyframe.imagelength} by {series.keyframe.imagewidth}"
            return (f"the first page, of {size}, is taken, and {larger} (?page={page} takes it)",)
        page += _pages_of(series)
    return ()


def _pages_of(series: Any) -> int:
    sizes = zip(series.axes, series.shape, strict=True)
    return int(np.prod([size for axis, size in sizes if axis not in "YXSCZ"], dtype=np.int64))


def _bands_as_rows(series: Any, request: Request) -> bool:
    """Whether an array (H, W, C) was written as it is: tifffile makes H pages of it, W rows by C columns each."""
    pages, _, bands = series.shape if len(series.shape) == 3 else (0, 0, 0)
    plain = request.options.page is None and request.options.z is None and series.axes[0] in UNKNOWN_AXES
    return plain and series.kind == "shaped" and bands == request.channels > 4 and pages != bands


def _read(
    file: Any, content: bytes, tags: Directory, request: Request, window: Window | None = None, turned: bool = True
) -> Picture:
    thumbnail = _larger_behind(file, request)
    number, request = _series_of(file, request)
    if window is None and len(file.series) == 1 and _bands_as_rows(file.series[number], request):
        height, width, bands = file.series[number].shape
        check_size(height, width * bands, len(content))
        return Picture(array=file.asarray(series=number, maxworkers=1))
    planes = _Planes(file, number, content, window)
    keyframe = planes.keyframe
    choice = choose(planes.series.axes, tuple(planes.series.shape), request)
    height, width = choice.shape[choice.axes.index("Y")], choice.shape[choice.axes.index("X")]
    if window is not None:
        height, width = window.height, window.width
    else:
        check_size(height, width, len(content))
    if height * width * choice.channels * keyframe.dtype.itemsize > MOST_BYTES:
        raise BadImage(f"{counted(choice.channels, 'channel')} of {height} by {width} pixels, which is more than 4 GiB")
    if choice.stack is None:
        array = planes.take(choice, None)
    else:
        array = project(
            choice.shape[choice.stack], partial(planes.take, choice), "max" if request.options.z == "max" else "mean"
        )
    array = array[:, :, np.newaxis] if array.ndim == 2 else array
    colours, alpha, remarks = meaning_of(keyframe, choice, array, tags)
    bits, white = keyframe.bitspersample, keyframe.photometric.name == "MINISWHITE"
    if keyframe.photometric.name == "PALETTE" and colours == 1 and keyframe.colormap is not None:
        array, colours, bits = looked_up(array[:, :, 0], keyframe.colormap), 3, 8
    check_colours(keyframe)
    if white:
        array = turn_over(array, int(bits))
    multiplied = alpha is not None and ASSOCIATED in keyframe.extrasamples and array.dtype.kind == "u"
    if alpha is not None and multiplied and request.options.channels is None:
        array = unmultiplied(array, alpha)
    return Picture(
        array=upright(array, orientation(lambda: tags)) if turned else array,
        colours=colours,
        alpha=alpha,
        names=channel_names(file, number, choice, geo_of(tags).descriptions) if request.as_stored else None,
        bits=int(bits) if array.dtype.kind == "u" and isinstance(bits, int) else None,
        remarks=(*choice.remarks, *remarks, *thumbnail),
        turned=white and array.dtype != np.uint8,
    )


@contextmanager
def _tiff_damage_named() -> Iterator[None]:
    """As `damage_named`, and what is missing to decompress a file."""
    try:
        yield
    except BadImage:
        raise
    except Exception as error:  # its readers raise whatever a damaged file leads them to
        missing = "compressed, which needs the package imagecodecs" if "imagecodecs" in str(error) else ""
        raise BadImage(missing or f"damaged ({type(error).__name__})") from None


class OpenTiff:
    """A TIFF file that is read a part at a time, by any number of threads.

    Args:
        path: of the file.
        options: say which picture of several is meant.

    Raises:
        BadImage: it is damaged, or holds something else.
        UserError: tifffile is not installed.
    """

    def __init__(self, path: str, options: ReadOptions) -> None:
        tifffile = _tifffile(3)
        with open(path, "rb") as stream:
            check_pages(stream)
        with _tiff_damage_named():
            self._file = tifffile.TiffFile(path)
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            with open(path, "rb") as stream:
                self._tags = tags_of(stream)
            self.lies = orientation(lambda: self._tags)
            number, _ = _series_of(self._file, Request(channels=3, options=options))
            series = self._file.series[number]
            sizes = dict(zip(series.axes, series.shape, strict=True))
            self.keyframe = series.keyframe
            self.height, self.width = int(sizes["Y"]), int(sizes["X"])

    def read(self, top: int, left: int, height: int, width: int, request: Request, turned: bool = True) -> Picture:
        """A part of the picture that is wanted, as its orientation tag turns it, or as it lies; raises `BadImage`."""
        window = Window(file=self._descriptor, top=top, left=left, height=height, width=width)
        with _tiff_damage_named():
            return described(_read(self._file, b"", self._tags, request, window, turned), self._tags)


def read_with_tifffile(content: bytes, tags: Directory, request: Request) -> Picture:
    """Read a TIFF file of any number of channels: bands of a page, or a series of pages.

    Raises:
        BadImage: it is damaged, or holds something else.
        UserError: tifffile is not installed.
    """
    tifffile = _tifffile(request.channels)
    check_pages(io.BytesIO(content))
    with _tiff_damage_named(), tifffile.TiffFile(io.BytesIO(content)) as file:
        return _read(file, content, tags, request)


def read_tiff(content: bytes, request: Request) -> Picture:
    """Read a TIFF file.

    Raises:
        BadImage: it is damaged, or holds something else than is wanted.
        UserError: it needs tifffile, which is not installed.
    """
    try:
        # Not from Pillow's image: there are bands for which it refuses to open one.
        tags = read_tags(content)
        suits = not tags.keys() & _OFFSETS or suits_pillow(tags, request)  # without: Pillow names the damage
        check_parts(tags, request)
    except READER_ERRORS:
        return read_pillow(content, request)
    return described(_read_page(content, tags, request) if suits else read_with_tifffile(content, tags, request), tags)


def _read_page(content: bytes, tags: Directory, request: Request) -> Picture:
    """A page that Pillow can read, by the quickest reader that does."""
    check_slice(request.options.z)
    try:
        page = plain_page(content, tags, request.options.page)
    except (TypeError, ValueError):  # tags of other types than they should be
        page = None
    if page is not None:
        return page
    try:
        return read_pillow(content, request)
    except BadImage as first:
        if str(first) not in ("not an image", "damaged"):
            raise
        try:
            return read_with_tifffile(content, tags, request)
        except UserError:
            raise first from None
        except BadImage as second:
            raise second if "imagecodecs" in str(second) else first from None
