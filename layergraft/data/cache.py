"""Decoded images, kept so that each is decoded once: in memory, or in a file that all processes of a machine map.

What is kept is what the decoder gave for the same request, so batches are the same bits with and without. How far a
JPEG is reduced depends on the crops of the moment, so an image may be kept at several scales, 1 1/3 of its pixels at
most. Where memory or disk grow short nothing more is kept, and the rest is decoded as before.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from layergraft.data.arrays import Labels, Pixels
from layergraft.data.decode import Reduction
from layergraft.data.sources.file_state import Stamp
from layergraft.data.sources.source import EncodedImages, Images, Source

RESERVE = 2 * 2**30  # bytes of memory or disk that stay free
Request = tuple[int, int, int]  # image, channels, factor of the reduction; 0 where the decoder is not free to reduce
Size = tuple[int, int]
NEVER: Size = (0, 0)  # in place of the size of an image that is not reduced, whatever is asked
_FIELDS = ("index", "channels", "factor", "height", "width", "height before", "width before", "at")
_ENTRY = np.dtype([(name, "<i8") for name in _FIELDS])
_UNKNOWN = -1


class Store(Protocol):
    """Where decoded images are kept. Threads call it side by side."""

    def get(self, request: Request) -> Pixels | None: ...

    def size(self, index: int) -> Size | None:
        """Height and width before any reduction, `NEVER`, or None where nothing is known of an image."""
        ...

    def put(self, request: Request, pixels: Pixels, size: Size | None) -> None: ...


class MemoryStore:
    """In the memory of this process.

    Args:
        free: gives the bytes of memory that are free, or None if the platform does not report it.
    """

    def __init__(self, free: Callable[[], int | None]) -> None:
        self.free = free
        self._images: dict[Request, Pixels] = {}
        self._sizes: dict[int, Size] = {}

    def get(self, request: Request) -> Pixels | None:
        return self._images.get(request)

    def size(self, index: int) -> Size | None:
        return self._sizes.get(index)

    def put(self, request: Request, pixels: Pixels, size: Size | None) -> None:
        free = self.free()
        if free is None or free - pixels.nbytes > RESERVE:
            self._images[request] = pixels
            if size is not None:
                self._sizes[request[0]] = size


class FileStore:
    """In a file that only grows, beside it a list of what lies where. Processes of one machine share it.

    An entry is written after its pixels, under a lock, so a process that is killed leaves nothing wrong behind. The
    names hold machine and boot: after a power failure the disk may have entries without their pixels.

    Args:
        path: of the files, without suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[Request, tuple[int, int, int]] = {}
        self._sizes: dict[int, Size] = {}
        self._lock, self._read, self._map = threading.Lock(), 0, mmap.mmap(-1, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        options = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._entries, self._pixels = (os.open(path.with_suffix(end), options, 0o644) for end in (".list", ".pixels"))

    def __del__(self) -> None:
        for file in (getattr(self, "_entries", None), getattr(self, "_pixels", None)):
            if file is not None:
                os.close(file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes meanwhile."""
        fcntl.flock(self._entries, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._entries, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Take note of entries since the last time, of any process; a last one that is cut off is left."""
        whole = os.fstat(self._entries).st_size // _ENTRY.itemsize * _ENTRY.itemsize
        if whole > self._read:
            rows = np.frombuffer(os.pread(self._entries, whole - self._read, self._read), dtype=_ENTRY)
            for index, channels, factor, height, width, *before, at in rows.tolist():
                self._found[index, channels, factor] = (at, height, width)
                if before[0] != _UNKNOWN:
                    self._sizes[index] = (before[0], before[1])
            self._read = whole

    def get(self, request: Request) -> Pixels | None:
        with self._lock:
            if request not in self._found:
                self._catch_up()
            if request not in self._found:
                return None
            at, height, width = self._found[request]
            count = height * width * request[1]
            if at + count > len(self._map):
                # Private pages: what is read is an array like any other. The old map lives as long as its arrays.
                self._map = mmap.mmap(self._pixels, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            return np.frombuffer(self._map, dtype=np.uint8, count=count, offset=at).reshape(height, width, request[1])

    def size(self, index: int) -> Size | None:
        with self._lock:
            if index not in self._sizes:
                self._catch_up()
            return self._sizes.get(index)

    def put(self, request: Request, pixels: Pixels, size: Size | None) -> None:
        if shutil.disk_usage(self.path.parent).free - pixels.nbytes < RESERVE:
            return
        with self._lock, self._alone():
            self._catch_up()
            if request in self._found:
                return  # another process was first
            os.ftruncate(self._entries, self._read)
            at = os.fstat(self._pixels).st_size
            left = np.ascontiguousarray(pixels).reshape(-1).data
            try:
                while left:
                    left = left[os.write(self._pixels, left) :]
                before = size or (_UNKNOWN, _UNKNOWN)
                entry = np.array([(*request, *pixels.shape[:2], *before, at)], dtype=_ENTRY)
                os.write(self._entries, entry.tobytes())
            except OSError:  # the disk is full after all: an entry that is cut off does not count
                return
            self._catch_up()


class CachedImages:
    """Images whose decoded pixels are kept.

    Args:
        images: the images themselves.
        store: where the pixels are kept.
    """

    def __init__(self, images: Images, store: Store) -> None:
        self.images, self.store = images, store

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        return self.images.read(index)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def stamp(self, keys: Labels) -> Stamp | None:
        return self.images.stamp(keys)

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        size = self.store.size(index) if reduction else NEVER
        if size is not None:
            factor = reduction(*size) if reduction and size != NEVER else 0
            kept = self.store.get((index, channels, factor))
            if kept is not None:
                return kept
        asked: list[tuple[Size, int]] = []

        def note(height: int, width: int) -> int:
            assert reduction is not None
            asked.append(((height, width), reduction(height, width)))
            return asked[-1][1]

        pixels = self.images.load(index, channels, note if reduction else None)
        size, factor = asked[-1] if asked else (NEVER if reduction else None, 0)
        self.store.put((index, channels, factor), pixels, size)
        return pixels


def _boot() -> str:
    """Changes whenever this machine starts; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def decoded_once(source: Source, kind: str, directory: Path, free: Callable[[], int | None]) -> Images:
    """The images of a source, of which every decoded one is kept.

    Args:
        source: its images are files; pixels that lie in memory anyhow are left alone.
        kind: `none`, `ram` or `disk`.
        directory: for `disk`: where the file goes. One of an earlier start is used again where no image file changed.
        free: for `ram`: gives the bytes of memory that are free, or None if the platform does not report it.
    """
    if kind == "none" or not isinstance(source.images, EncodedImages):
        return source.images
    if kind == "ram":
        return CachedImages(source.images, MemoryStore(free))
    stamp = source.stamp()
    parts = (source.spec, str(source.options), source.fingerprint, stamp and stamp.text, socket.gethostname(), _boot())
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
    return CachedImages(source.images, FileStore(directory / digest))
