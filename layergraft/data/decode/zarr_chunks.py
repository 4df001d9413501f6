"""Zarr stores on this machine, whose chunks are looked at before they are decoded.

A chunk that Blosc has compressed says how long it is, and no library compares: of one that was cut short on its way
other pixels come back, or the process ends in the decoder.
"""

from __future__ import annotations

import json
import os
from functools import cache, lru_cache
from typing import Any

from layergraft.data.decode.picture import BadImage
from layergraft.errors import UserError

_LENGTH = slice(12, 16)  # of Blosc's header: bytes of the whole chunk
_MARKS = (".zarray", "zarr.json")


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
            if chunk is None or byte_range is not None or os.path.basename(key) in (*_MARKS, ".zattrs", ".zgroup"):
                return chunk
            if _is_blosc(os.path.dirname(os.path.join(self.root, key)), str(self.root)):
                length = int.from_bytes(chunk.as_numpy_array()[_LENGTH].tobytes(), "little")
                if length != len(chunk):
                    raise BadImage(f"damaged (a chunk of {len(chunk)} bytes instead of {length})")
            return chunk

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            return self._whole(key, await super().get(key, prototype, byte_range), byte_range)

        def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
            return self._whole(key, super().get_sync(key, prototype=prototype, byte_range=byte_range), byte_range)

    return WholeChunks


@lru_cache(maxsize=4096)
def _is_blosc(folder: str, root: str) -> bool:
    """Whether the chunks in a folder are what Blosc has made: the array's own file, there or above, says so."""
    for name in _MARKS:
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            with open(file, encoding="utf-8") as stream:
                said = json.load(stream)
            codecs = said.get("codecs") or [{}]
            return "blosc" in ((said.get("compressor") or {}).get("id"), codecs[-1].get("name"))
    return len(folder) > len(root) and _is_blosc(os.path.dirname(folder), root)
