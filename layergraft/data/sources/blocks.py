"""Images that lie far away, read in blocks: one request brings a run of neighbours, which are kept for a while.

The loader announces the images of a batch before it reads them. Once one of them is really wanted (it may be in a cache
of decoded images), the announced blocks are fetched side by side. An image that nobody announced is read alone.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from layergraft.data.arrays import Labels
from layergraft.data.decode import BadImage
from layergraft.data.order import STREAMS, WINDOW
from layergraft.data.sources.files import Place
from layergraft.data.sources.source import EncodedImages

# Every stream has a window that it reads and, at the change, the next one.
KEPT = 2 * STREAMS * WINDOW
FETCHERS = 16


class BlockImages(EncodedImages):
    """A kind of source adds `fetch`, `read_one` and `name`.

    Args:
        starts: the first image of each block, ascending from 0.
        count: how many images there are.
    """

    def __init__(self, starts: Labels, count: int) -> None:
        self.starts: Labels = starts
        self.count = count
        self._lock = threading.Lock()
        self._blocks: dict[int, Future[Sequence[bytes | Place | None]] | None] = {}  # announced ones, the oldest first
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="layergraft-blocks")

    def __len__(self) -> int:
        return self.count

    @abstractmethod
    def fetch(self, block: int) -> Sequence[bytes | Place | None]:
        """The files of a block's images, or where they are; raises `BadImage` or OSError where it cannot be read."""

    def read_one(self, index: int) -> bytes:
        """The file of an image that is not in an announced block."""
        block = int(np.searchsorted(self.starts, index, side="right")) - 1
        return _file(self.fetch(block), index - int(self.starts[block]))

    def announce(self, keys: Labels) -> None:
        """These images are wanted soon."""
        with self._lock:
            for block in np.unique(np.searchsorted(self.starts, keys, side="right") - 1).tolist():
                self._blocks[block] = self._blocks.pop(block, None)
            while len(self._blocks) > KEPT:
                self._blocks.pop(next(iter(self._blocks)))

    def read(self, index: int) -> bytes:
        block = int(np.searchsorted(self.starts, index, side="right")) - 1
        with self._lock:
            if block in self._blocks:
                for number, future in self._blocks.items():
                    if future is None:
                        self._blocks[number] = self._pool.submit(self.fetch, number)
            wanted = self._blocks.get(block)
        try:
            if wanted is None:
                return self.read_one(index)
            return _file(wanted.result(), index - int(self.starts[block]))
        except OSError as error:
            with self._lock:
                self._blocks.pop(block, None)  # the next one to want it tries again
            raise BadImage(f"unreadable: {error.strerror or type(error).__name__}") from None


def _file(files: Sequence[bytes | Place | None], row: int) -> bytes:
    content = files[row]
    if content is None:
        raise BadImage("empty row")
    return content.read() if isinstance(content, Place) else content
