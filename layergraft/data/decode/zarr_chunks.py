"""Zarr stores on this machine, whose chunks are looked at before they are decoded.

A chunk that Blosc has compressed says how long it is, and no library compares: of one that was cut short on its way
other pixels come back, or the process ends in the decoder. A pipe or device in place of one has no end, and a file may
be larger than the memory.
"""

from __future__ import annotations

import json
import math
import os
import sys
from functools import cache, lru_cache
from typing import Any

import numpy as np

from layergraft.config.paths import check_regular
from layergraft.data.decode.picture import BadImage
from layergraft.errors import UserError

_LENGTH = slice(12, 16)  # of Blosc's header: bytes of the whole chunk
_MARKS = (".zarray", "zarr.json")
_DESCRIPTIONS = (*_MARKS, ".zattrs", ".zgroup", ".zmetadata")
_WIDEST = 16  # bytes of a number
_OVERHEAD = 2**20  # bytes


def open_zarr_node(path: str) -> Any:
    """An array or a group of a store, to be read.

    Args:
        path: of its folder.

    Raises:
        UserError: zarr is not installed.
        Exception: whatever zarr raises over a damaged store; `BadImage`, when a chunk that is cut short is read.
    """
    try:
        import zarr
    except ImportError:
        raise UserError("Zarr needs the package zarr.", "pip install 'layergraft[arrays]'.") from None
    _array_file.cache_clear()  # the store may have been written again since it was opened last
    store = _whole_chunks()
    return zarr.open(path if store is None else store(path, read_only=True), mode="r")


@cache
def _whole_chunks() -> Any:
    """The class of stores that give a chunk of Blosc's only where it is as long as it says; None of zarr 2."""
    try:
        from zarr.storage import LocalStore
    except ImportError:
        return None

    class WholeChunks(LocalStore):
        def _whole(self, key: str, chunk: Any, byte_range: Any) -> Any:
            if chunk is None or byte_range is not None or os.path.basename(key) in _DESCRIPTIONS:
                return chunk
            if _is_blosc(os.path.dirname(os.path.join(self.root, key)), str(self.root)):
                length = int.from_bytes(chunk.as_numpy_array()[_LENGTH].tobytes(), "little")
                if length != len(chunk):
                    raise BadImage(f"damaged (a chunk of {len(chunk)} bytes instead of {length})")
            return chunk

        def _check(self, key: str, byte_range: Any) -> None:
            path = os.path.join(self.root, key)
            try:
                size = check_regular(path)
            except FileNotFoundError:
                return
            except OSError:
                raise BadImage(f"damaged ({os.path.basename(key)} is no regular file)") from None
            is_chunk = byte_range is None and os.path.basename(key) not in _DESCRIPTIONS
            if is_chunk and size > _most_bytes(os.path.dirname(path), str(self.root)):
                raise BadImage(f"damaged (a chunk of {size} bytes)")

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            self._check(key, byte_range)
            return self._whole(key, await super().get(key, prototype, byte_range), byte_range)

        def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
            self._check(key, byte_range)
            return self._whole(key, super().get_sync(key, prototype=prototype, byte_range=byte_range), byte_range)

    return WholeChunks


def _is_blosc(folder: str, root: str) -> bool:
    """Whether the chunks in a folder are what Blosc has made."""
    said = _array_file(folder, root)
    codecs = said.get("codecs") or [{}]
    return "blosc" in ((said.get("compressor") or {}).get("id"), codecs[-1].get("name"))


def _most_bytes(folder: str, root: str) -> int:
    """More than a chunk in a folder can have: of the widest numbers or its texts, and twice as much as they are."""
    said = _array_file(folder, root)
    grid = said.get("chunk_grid") or {}
    shape = said.get("chunks") or (grid.get("configuration") or {}).get("chunk_shape") or ()
    width = _width(said.get("dtype") or said.get("data_type"))
    if width is None or not all(isinstance(size, int) for size in shape):  # chunks of several sizes
        return sys.maxsize
    return _OVERHEAD + 2 * max(_WIDEST, width) * math.prod(shape)


def _width(kind: Any) -> int | None:
    """Bytes of an element, as Zarr 2 or 3 writes its type; None where texts are as long as they like."""
    if isinstance(kind, dict):  # of Zarr 3, with a configuration: text of a fixed length, times
        return (kind.get("configuration") or {}).get("length_bytes")
    try:
        dtype = np.dtype(kind or "uint8")
    except (TypeError, ValueError):  # `string`
        return None
    return None if dtype.kind == "O" else dtype.itemsize or None


@lru_cache(maxsize=4096)
def _array_file(folder: str, root: str) -> dict[str, Any]:
    """What the array's own file says, there or above the chunks in a folder; empty where there is none."""
    for name in _MARKS:
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            with open(file, encoding="utf-8") as stream:
                said = json.load(stream)
            return said if isinstance(said, dict) else {}
    return _array_file(os.path.dirname(folder), root) if len(folder) > len(root) else {}
