"""Zarr: a folder that holds one array of images, or a group of arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import Place
from layergraft.data.sources.source import Source
from layergraft.data.sources.stack import Array, open_stack
from layergraft.errors import UserError

MARKS = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(folder: str) -> bool:
    """Whether a folder of this machine is a Zarr store."""
    return any(os.path.isfile(os.path.join(folder, mark)) for mark in MARKS)


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
    """Open a store; sample key = row.

    Raises:
        UserError: it cannot be read, or is an OME-Zarr image.
    """
    try:
        import zarr
    except ImportError:
        raise UserError("Zarr needs the package zarr.", "pip install 'layergraft[arrays]'.") from None
    try:
        node = zarr.open(folder.path, mode="r")
        attributes = dict(node.attrs)
        arrays = {folder.name: ZarrArray(node)} if hasattr(node, "shape") else dict(_arrays(node))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder.path!r} cannot be read as Zarr: {error}.", "Mend it, or write it again.") from None
    if {"multiscales", "plate", "well", "ome"} & attributes.keys():
        raise UserError(
            f"{folder.path!r} is OME-Zarr, which is not read yet.", "Write its images as OME-TIFF files of a folder."
        )
    return open_stack(spec, folder.path, arrays, chosen)
