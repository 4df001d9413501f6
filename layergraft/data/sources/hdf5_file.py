"""HDF5 (`.h5`): datasets of images and labels, in PCam's layout and others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.config.paths import check_regular
from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import Place
from layergraft.data.sources.source import Source
from layergraft.data.sources.stack import Array, open_stack
from layergraft.errors import UserError


class Hdf5Array:
    """A dataset of an HDF5 file; the library lets one thread read at a time."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype: np.dtype[Any] = dataset.dtype

    def row(self, index: int) -> npt.NDArray[Any]:
        """One row."""
        return np.asarray(self._dataset[index])

    def rows(self) -> npt.NDArray[Any]:
        """All of them."""
        return np.asarray(self._dataset[()])


def _datasets(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in group.items():
        if hasattr(item, "items"):
            yield from _datasets(item, f"{prefix}{name}/")
        elif item is not None and getattr(item, "shape", None):
            yield prefix + name, item


def _arrays(path: str) -> tuple[Any, dict[str, Array]]:
    """(the open file, its datasets)."""
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 files need the package h5py.", "pip install 'layergraft[arrays]'.") from None
    try:
        check_regular(path)
        file = h5py.File(path, "r")
        return file, {name: Hdf5Array(dataset) for name, dataset in _datasets(file)}
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{path!r} cannot be read as HDF5: {error}.", "Mend it, or write it again.") from None


def open_hdf5(spec: str, file: Place, chosen: Chosen) -> Source:
    """Open an HDF5 file; sample key = row. The labels of PCam's `…_x.h5` lie in `…_y.h5` beside it."""
    opened, arrays = _arrays(file.path)
    stem, x, ending = file.name.rpartition("_x.")
    beside = file.parent / f"{stem}_y.{ending}"
    labels, keep = None, [opened]
    if x and chosen.label is None and len(arrays) == 1 and beside.exists():
        opened_labels, label_arrays = _arrays(beside.path)
        labels = label_arrays.get("y")
        keep.append(opened_labels)
    return open_stack(spec, file.path, arrays, chosen, labels, keep)
