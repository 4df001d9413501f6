"""Images in one array (N, height, width[, channels]) of a file: what its kinds share.

Each image goes its way as the bytes of a `.npy` file, so that whatever is said of files (value ranges, channels, what
`pack` writes) holds for arrays too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Labels
from layergraft.data.decode import BadImage
from layergraft.data.decode.npy import as_npy
from layergraft.data.sources.columns import Chosen, shown
from layergraft.data.sources.file_state import Stamp, stamp_files
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index
from layergraft.data.sources.labels import all_or_none, label_texts
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError, nearest
from layergraft.runs.readable import counted

# Array of images -> array of its labels, the likeliest first: MedMNIST's, Keras's, PCam's and others' names.
NAMES = {
    "train_images": "train_labels",
    "x_train": "y_train",
    "train_x": "train_y",
    "images": "labels",
    "image": "label",
    "x": "y",
    "X": "y",
    "data": "labels",
}


class Array(Protocol):
    """An array of a file, read a row at a time by any number of threads."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def row(self, index: int) -> npt.NDArray[Any]:
        """One row; raises OSError, ValueError, RuntimeError or KeyError where it cannot be read."""
        ...

    def rows(self) -> npt.NDArray[Any]:
        """All of them at once."""
        ...


class StackImages(EncodedImages):
    """Rows of an array.

    Args:
        array: of shape (N, H, W), (N, H, W, C) or (N, C, H, W).
        path: of its file or folder.
        keep: what must live as long as this.
    """

    def __init__(self, array: Array, path: str, keep: object = None) -> None:
        self.array, self.path, self.keep = array, path, keep

    def __len__(self) -> int:
        return self.array.shape[0]

    def name(self, index: int) -> str:
        return f"row {index}"

    def size(self, index: int) -> int | None:
        return int(np.prod(self.array.shape[1:])) * self.array.dtype.itemsize

    def stamp(self, keys: Labels) -> Stamp | None:
        if os.path.isdir(self.path):
            return None
        file = stamp_files([os.fsencode(self.path)])
        rows = hashlib.blake2b(file.text.encode() + keys.tobytes(), digest_size=16)
        return replace(file, text=rows.hexdigest())

    def read(self, index: int) -> bytes:
        try:
            pixels = self.array.row(index)
        except Exception as error:  # as the libraries behind say it: zlib.error, LZMAError, EOFError …
            raise BadImage(f"unreadable: {str(error) or type(error).__name__}") from None
        return as_npy(pixels)


def open_stack(
    spec: str, path: str, arrays: Mapping[str, Array], chosen: Chosen, labels: Array | None = None, keep: object = None
) -> Source:
    """Open one of the arrays of a file as a source; sample key = row.

    Args:
        spec: what the user wrote.
        path: of the file or folder.
        arrays: all arrays by name.
        chosen: those of images and of labels that the user names.
        labels: an array of labels that lies in another file, if any.
        keep: what must live as long as the source.

    Raises:
        UserError: there is no array of images, or none of the names that the user gives.
    """
    name = _images(path, arrays, chosen)
    images = arrays[name]
    label, remark = chosen.label, ""
    if label is not None and label not in arrays:
        raise UserError(f"{path!r} has no array {label!r}: it has {shown(list(arrays))}.", nearest(label, arrays))
    if label is None and NAMES.get(name) in arrays:
        label = NAMES[name]
    if label is not None:
        labels = arrays[label]
    if chosen.image is None and len(arrays) > (2 if label else 1):
        others = [other for other in arrays if other not in (name, label)]
        where = f"images from `{name}`" + (f", labels from `{label}`" if label else "")
        remark = f"{path!r}: {where}; not used: {shown(others)}."
    index = _index(path, labels, len(StackImages(images, path)))
    described = f"{os.path.basename(path)}:{name}:{images.shape}:{images.dtype.str}"
    fingerprint = hashlib.blake2b(described.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    index = replace(index, fingerprint=fingerprint, remarks=[*filter(None, (remark, *index.remarks))])
    return as_source(spec, StackImages(images, path, keep), index)


def _images(path: str, arrays: Mapping[str, Array], chosen: Chosen) -> str:
    """The name of the array of images."""
    listed = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
    if chosen.image is not None:
        if chosen.image not in arrays:
            raise UserError(f"{path!r} has no array {chosen.image!r}: it has {listed}.", nearest(chosen.image, arrays))
        name = chosen.image
    else:
        fitting = [name for name, array in arrays.items() if _why_not(array) is None]
        usual = [name for name in NAMES if name in fitting] or (list(arrays) if len(arrays) == 1 else [])
        if not usual and len(fitting) != 1:
            raise UserError(
                f"{path!r} has {'several arrays' if fitting else 'no array'} of images: it has {listed or 'none'}.",
                "Images lie in an array (N, height, width) or (N, height, width, channels). Name it: ?images=NAME.",
            )
        name = (usual or fitting)[0]
    reason = _why_not(arrays[name])
    if reason:
        raise UserError(
            f"The array {name!r} of {path!r} {reason}: it is {arrays[name].shape} {arrays[name].dtype}.",
            "Images lie in an array (N, height, width) or (N, height, width, channels) of numbers.",
        )
    return name


def _why_not(array: Array) -> str | None:
    """Why an array does not hold images."""
    if array.dtype.kind not in "buif":
        return "holds no numbers"
    if len(array.shape) not in (3, 4):
        return "has no axes N, height and width"
    if len(array.shape) == 3 and array.shape[2] <= 4 < array.shape[1]:
        return "looks like one image: put such files into a folder"
    return None if array.shape[0] else "is empty"


def _index(path: str, labels: Array | None, count: int) -> Index:
    """The labels of all images, if they are some."""
    none = Index(classes=[], signature="", fingerprint="")
    none = replace(none, label_hint=f"Name their array of {path!r}: ?images=NAME&labels=NAME.")
    if labels is None:
        return none
    if labels.shape[:1] != (count,):
        raise UserError(
            f"{path!r} has {counted(count, 'image')}, and labels of shape {labels.shape}.", "Name others: ?labels=NAME."
        )
    try:
        values = labels.rows().reshape(count, -1)
    except UserError:
        raise
    except Exception as error:  # as in `StackImages.read`
        reason = str(error) or type(error).__name__
        raise UserError(f"The labels of {path!r} cannot be read: {reason}.", "Mend it, or write it again.") from None
    if values.shape[1] > 1:
        numbers = values.dtype.kind in "buif"
        if not numbers or not ((values == 1).sum(axis=1) == 1).all() or np.count_nonzero(values) != count:
            hint = f"The labels of {path!r} are {values.shape[1]} numbers an image: one class an image is needed."
            return replace(none, label_hint=hint, remarks=[f"No labels: {hint}"])
        values = values.argmax(axis=1)[:, np.newaxis]
    ids: dict[str, int] = {}
    texts = label_texts(None if _is_below_0(value) else value for value in values[:, 0].tolist())
    codes = np.array([ids.setdefault(text, len(ids)) for text in texts], dtype=np.int32)
    if not all_or_none(path, ids):
        return none
    return replace(none, columns={"label": codes}, classes=list(ids))


def _is_below_0(value: object) -> bool:
    return isinstance(value, int) and value < 0
