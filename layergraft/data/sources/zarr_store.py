"""Zarr: a folder that holds one array of images, or a group of arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.ome_zarr import images_of
from layergraft.data.decode.picture import BadImage
from layergraft.data.decode.zarr_chunks import open_zarr_node
from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import COLUMNS
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import IndexBuilder
from layergraft.data.sources.source import Source
from layergraft.data.sources.stack import Array, open_stack
from layergraft.errors import UserError


class ZarrArray:
    """An array of a store."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    def row(self, index: int) -> npt.NDArray[Any]:
        """One row."""
        return np.asarray(self._array[index])

    def rows(self) -> npt.NDArray[Any]:
        """All of them."""
        return np.asarray(self._array[:])


def _arrays(node: Any, prefix: str = "") -> Iterator[tuple[str, Array]]:
    for name, array in sorted(node.arrays()):
        if array.shape:
            yield prefix + name, ZarrArray(array)
    for name, group in sorted(node.groups()):
        yield from _arrays(group, f"{prefix}{name}/")


def open_zarr(spec: str, folder: Place, chosen: Chosen) -> Source:
    """Open a store; sample key = row, or number of the image of an OME-Zarr store.

    Raises:
        UserError: it cannot be read.
    """
    if images := list(images_of(folder.path)):
        return open_ome_zarr(spec, folder, images)
    try:
        node = open_zarr_node(folder.path)
        arrays = {folder.name: ZarrArray(node)} if hasattr(node, "shape") else dict(_arrays(node))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, BadImage) as error:
        raise UserError(f"{folder.path!r} cannot be read as Zarr: {error}.", "Mend it, or write it again.") from None
    return open_stack(spec, folder.path, arrays, chosen)


def open_ome_zarr(spec: str, store: Place, images: Sequence[str]) -> Source:
    """Open an OME-Zarr store: one image, several, or the fields of a plate's wells, which are called after the store.

    Args:
        spec: what the user wrote.
        store: its folder.
        images: their paths in it.
    """
    paths = [os.fsencode(f"{store.name}//{image}") for image in images]
    builder = IndexBuilder(COLUMNS, None)
    labels = np.zeros(len(paths), dtype=np.int32)
    builder.add(paths, {"label": labels})
    index = builder.finish("")
    files = FileImages(store.parent, index.names)
    hint = f"Give a table of labels, whose paths are like {files.name(0)!r}."
    return as_source(spec, files, replace(index, label_hint=hint))
