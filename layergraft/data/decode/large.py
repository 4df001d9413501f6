"""Large images that are no pyramids, read a part at a time: TIFF from its file, others from what was decoded once."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from layergraft.config.paths import check_regular, open_regular, read_regular
from layergraft.data.arrays import Pixels
from layergraft.data.decode.ome_zarr import OmeZarr
from layergraft.data.decode.options import ReadOptions
from layergraft.data.decode.picture import BadImage, Picture, Request, damage_named, larger_pictures
from layergraft.data.decode.ranges import is_plain
from layergraft.data.decode.readers import read_picture
from layergraft.data.decode.tiff import OpenTiff
from layergraft.data.decode.tiff_tags import STARTS
from layergraft.data.decode.tiff_window import pixels_decoded
from layergraft.data.decode.tiling import Tiling
from layergraft.data.orientation import upright
from layergraft.runs.atomic import write_bytes, writing
from layergraft.runs.interruption import check

DECODED = 32  # so many times the pixels of a tile may be decoded for one; else the image is decoded once, into a file
RESERVE = 2 * 2**30  # bytes of disk that stay free
_ROWS = 512  # that are decoded at once


class CutImage(ABC):
    """A large image that is cut into tiles of its own pixels.

    Args:
        side: of a tile.
        size: height and width of the image.
    """

    series = ""
    shown = ReadOptions()  # which picture of a file with several it is, for the look for tissue

    def __init__(self, side: int, size: tuple[int, int]) -> None:
        self.side = side
        self.steps = (float(side), float(side))
        self.rows, self.columns = size[0] // side, size[1] // side

    def at_once(self, side: int) -> int:
        """How many tiles of a thumbnail, across and down, are read at once."""
        return 1

    @abstractmethod
    def picture(self, x: int, y: int, request: Request) -> Picture:
        """The tile that begins at a corner; raises `BadImage`."""

    def thumbnail(self, row: int, column: int, rows: int, columns: int, side: int) -> Pixels:
        """One tile, shrunk to `side` pixels: RGBA."""
        request = Request(channels=3, options=self.shown)
        picture = self.picture(column * self.side, row * self.side, request)
        if not is_plain(picture) or picture.array.shape[2] != 3:
            raise BadImage("no RGB of 8 bits, in which tissue is found: give ?tissue=0")
        small = cv2.resize(picture.array, (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2RGBA), dtype=np.uint8)


class TiffTiles(CutImage):
    """A TIFF file whose tiles or strips are decoded as they are needed.

    Args:
        tiff: the file.
        side: of a tile.
    """

    def __init__(self, tiff: OpenTiff, side: int) -> None:
        super().__init__(side, (tiff.height, tiff.width))
        self.tiff = tiff

    def picture(self, x: int, y: int, request: Request) -> Picture:
        return self.tiff.read(y, x, self.side, self.side, request)


class OmeZarrTiles(CutImage):
    """A level of an OME-Zarr image.

    Args:
        path: of its folder.
        tiling: the side of a tile, and the level.
    """

    def __init__(self, path: str, tiling: Tiling) -> None:
        if tiling.mpp is not None:
            raise BadImage(f"OME-Zarr, whose tiles are of a level: give ?tile={tiling.tile}&level=0")
        self.image = OmeZarr(path, tiling.level or 0)
        super().__init__(tiling.tile, (self.image.height, self.image.width))

    def picture(self, x: int, y: int, request: Request) -> Picture:
        return self.image.picture(request, (y, x, self.side, self.side))


@dataclass(frozen=True, kw_only=True)
class _Meaning:
    """What `Picture` says of an array, in a file beside it."""

    colours: int
    alpha: int | None
    names: tuple[str, ...] | None
    bits: int | None
    range: tuple[float, float] | None
    remarks: tuple[str, ...]
    nodata: float | None = None
    turned: bool = False


class DecodedTiles(CutImage):
    """An image that is decoded once, into a mapped file; where that is not worth it or finds no room, for each tile.

    Args:
        path: of the image.
        side: of a tile.
        options: which picture of several is meant.
        directory: where the mapped file goes.
        tiff: the image, if it is a TIFF file.
    """

    def __init__(
        self, path: str, side: int, options: ReadOptions, directory: Path, tiff: OpenTiff | None = None
    ) -> None:
        self.path, self.directory, self.tiff = path, directory, tiff
        self._lock = threading.Lock()
        self._kept: dict[Request, Picture] = {}
        status = os.stat(path)
        self._state = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        if tiff is None:
            size = self._whole(Request(channels=3, options=options), side).array.shape[:2]
        else:
            size = (tiff.height, tiff.width)
        super().__init__(side, (size[0], size[1]))

    def picture(self, x: int, y: int, request: Request) -> Picture:
        whole = self._whole(request, self.side)
        height, width = whole.array.shape[:2]
        if y + self.side > height or x + self.side > width:
            raise BadImage(f"no such tile: it has {height} by {width} pixels")
        tile = np.array(whole.array[y : y + self.side, x : x + self.side])
        return replace(whole, array=upright(tile, self.tiff.lies) if self.tiff else tile)

    def _whole(self, request: Request, side: int) -> Picture:
        """All of the image with all of its channels, mapped where that is possible."""
        options = replace(request.options, range=None)
        if self.tiff:
            request = replace(request, options=options)
        else:
            request = Request(channels=3, options=replace(options, channels=None), whole=True)
        with self._lock:
            if request in self._kept:
                return self._kept[request]
            name = blake2b(f"{self._state} {request}".encode(), digest_size=8).hexdigest()
            file = self.directory / f"{name}.decoded.npy"
            picture = _mapped(file)
            if picture is None:
                picture = self._decode(request, file, side)
            if isinstance(picture.array, np.memmap):
                self._kept[request] = picture
            return picture

    def _decode(self, request: Request, file: Path, side: int) -> Picture:
        if self.tiff is None:
            try:
                content = read_regular(self.path)
            except OSError as error:
                raise BadImage(f"unreadable: {error.strerror}") from None
            with larger_pictures():
                first = read_picture(content, request)
            height = first.array.shape[0]
        else:
            height = self.tiff.height
            first = self.tiff.read(0, 0, min(_ROWS, height), self.tiff.width, request, turned=False)
        shape = (height, *first.array.shape[1:])
        pixels = height * shape[1]
        room = pixels * shape[2] * first.array.dtype.itemsize
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        full = shutil.disk_usage(self.directory).free - room < RESERVE
        if self.tiff is None and (full or pixels <= DECODED * side**2):
            return first
        if full:
            raise BadImage(
                f"{room / 1e9:.0f} GB decoded, for which {str(self.directory)!r} has no room: write it in tiles"
            )
        partial = file.with_name(f"{file.name.partition('.')[0]}.{uuid4().hex}.part")
        meaning = msgspec.json.encode({name: getattr(first, name) for name in _Meaning.__dataclass_fields__})
        try:
            with writing(file):
                array = np.lib.format.open_memmap(partial, mode="w+", dtype=first.array.dtype, shape=shape)
                _reserve(partial)
            for top, part in self._parts(first, height, request):
                array[top : top + len(part)] = part
            with writing(file):
                array.flush()
                del array
                write_bytes(file.with_suffix(".json"), meaning)
                os.replace(partial, file)
        except BaseException:  # it may be large, and a damaged image fails again at every start
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        mapped = _mapped(file)
        assert mapped is not None
        return mapped

    def _parts(self, first: Picture, height: int, request: Request) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """(its first row, the rows) of the image, part by part."""
        yield 0, first.array
        for top in range(len(first.array), height, _ROWS):
            check()
            assert self.tiff is not None
            yield top, self.tiff.read(top, 0, min(_ROWS, height - top), self.tiff.width, request, turned=False).array


def _reserve(file: Path) -> None:
    """Take the disk's room for a file that is mapped: where it ran out later, the process would be ended."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(file, "rb+") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise


def _mapped(file: Path) -> Picture | None:
    """The picture that an earlier start, or another process, decoded."""
    try:
        meaning = msgspec.json.decode(read_regular(file.with_suffix(".json")), type=_Meaning)
        check_regular(file)
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return Picture(array=array, **{name: getattr(meaning, name) for name in _Meaning.__dataclass_fields__})


def open_image(path: str, tiling: Tiling, options: ReadOptions, directory: Path) -> CutImage:
    """Open a large image that is no pyramid.

    Args:
        path: of the file.
        tiling: the side of a tile.
        options: which picture of several is meant.
        directory: where images go that are decoded once.

    Raises:
        BadImage: it cannot be read.
    """
    tiles = _opened(path, tiling, options, directory)
    tiles.shown = ReadOptions(page=options.page, z=options.z)
    return tiles


def _opened(path: str, tiling: Tiling, options: ReadOptions, directory: Path) -> CutImage:
    """The kind of tiles that a file is best read by."""
    if os.path.isdir(path):
        return OmeZarrTiles(path, tiling)
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except OSError as error:
        raise BadImage(f"unreadable: {error.strerror}") from None
    if start not in STARTS:
        return DecodedTiles(path, tiling.tile, options, directory)
    tiff = OpenTiff(path, options)
    with damage_named():
        decoded = pixels_decoded(tiff.keyframe, tiling.tile)
    if decoded <= DECODED * tiling.tile**2:
        return TiffTiles(tiff, tiling.tile)
    return DecodedTiles(path, tiling.tile, options, directory, tiff)
