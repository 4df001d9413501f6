"""Large images cut into tiles, each of which is an image of the source: `slide.svs#512,256` begins at x 512, y 256."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import cv2

from layergraft.data.arrays import Labels, Pixels
from layergraft.data.decode import BadImage, Reduction
from layergraft.data.decode.npy import as_npy
from layergraft.data.decode.picture import Picture, Request
from layergraft.data.decode.ranges import is_plain
from layergraft.data.decode.readers import as_levels
from layergraft.data.decode.tiling import Tiling
from layergraft.data.sources.file_state import Stamp, stamp_files
from layergraft.data.sources.files import OUTSIDE, Place, path_below
from layergraft.data.sources.index import Names
from layergraft.data.sources.source import EncodedImages, file_of

_NOT_ALONE = (".mrxs", ".vms", ".vmu", ".dcm")
OPEN = 64  # large images that a process holds open


class Tiles(Protocol):
    """One image that is cut into tiles. Threads call it side by side."""

    def picture(self, x: int, y: int, request: Request) -> Picture:
        """The tile that begins at a corner; raises `BadImage`."""
        ...


class OpenImages:
    """Large images, of which those that were used last stay open; each process opens its own.

    Args:
        open_one: path -> the image, or raises `BadImage`.
    """

    def __init__(self, open_one: Callable[[str], Tiles]) -> None:
        self._open_one = open_one
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[str, Tiles] = OrderedDict()

    def get(self, path: str) -> Tiles:
        """An image, opened where it is not."""
        if self._process != os.getpid():  # a process that was forked must not share places within files
            self._begin()
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        opened = self._open_one(path)
        with self._lock:
            self._kept[path] = opened
            while len(self._kept) > OPEN:
                self._kept.popitem(last=False)  # closed when no thread reads from it any more
        return opened


class TileImages(EncodedImages):
    """Tiles of large images.

    Args:
        root: the folder that the images lie in.
        names: of the tiles; one without a corner is an image that could not be cut.
        tiling: how they are cut.
        opened: gives the large images.
        keep: what must live as long as this.
    """

    def __init__(self, root: Place, names: Names, tiling: Tiling, opened: OpenImages, keep: object = None) -> None:
        self.root, self.names, self.tiling, self.opened, self.keep = root, names, tiling, opened, keep

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return os.fsdecode(self.names[index])

    def _file(self, index: int) -> str:
        """Path of the large image."""
        path = path_below(self.root, os.fsencode(file_of(self.name(index))))
        if path is None:
            raise BadImage(OUTSIDE)
        return os.path.join(self.root.path, os.fsdecode(path))

    def size(self, index: int) -> int | None:
        try:
            return os.stat(self._file(index)).st_size
        except (OSError, ValueError, BadImage):
            return None

    def start(self, index: int, count: int) -> bytes:
        file = self._file(index)
        return b"" if os.path.isdir(file) else Place(file).read(0, count)

    def stamp(self, keys: Labels) -> Stamp | None:
        files: dict[str, None] = {}
        digest = hashlib.blake2b(str(self.tiling).encode(), digest_size=16)
        for key in keys.tolist():
            name = self.names[key]
            digest.update(name + b"\0")
            files[file_of(os.fsdecode(name))] = None
        paths = (path_below(self.root, os.fsencode(file)) for file in files)
        top = os.fsencode(self.root.path)
        stamp = stamp_files(None if path is None else os.path.join(top, path) for path in paths)
        digest.update(stamp.text.encode())
        # Folders, and files that others belong to, do not tell of changes in those.
        alone = not any(
            file.lower().endswith(_NOT_ALONE) or os.path.isdir(os.path.join(top, os.fsencode(file))) for file in files
        )
        return replace(stamp, text=digest.hexdigest(), certain=stamp.certain and alone)

    def picture(self, index: int, request: Request) -> Picture:
        name, file = self.name(index), self._file(index)
        tiles = self.opened.get(file)
        _, mark, corner = name.rpartition("#")
        if file_of(name) == name or not mark:
            raise BadImage("could not be read when it was cut into tiles")
        x, y = (int(number) for number in corner.split(","))
        return tiles.picture(x, y, request)

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        request = Request(channels=channels, options=self.options)
        return as_levels(self.picture(index, request), request)

    def read(self, index: int) -> bytes:
        """The tile as a file of its own: PNG where it is grey or RGB of 8 bits, else `.npy`."""
        options = replace(self.options, range=None)
        picture = self.picture(index, Request(channels=3, options=options, whole=True))
        array = picture.array
        if is_plain(picture) and picture.colours == array.shape[2]:
            done, content = cv2.imencode(".png", array[:, :, ::-1] if array.shape[2] == 3 else array)
            assert done
            return bytes(content)
        return as_npy(array)
