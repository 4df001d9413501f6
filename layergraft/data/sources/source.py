"""What a source is."""

from __future__ import annotations

import copy
import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import ClassIds, Labels, Mask, Pixels
from layergraft.data.decode import ReadOptions, Reduction, decode
from layergraft.data.decode.picture import Picture, Request
from layergraft.data.decode.readers import read_picture
from layergraft.data.sources.file_state import Stamp
from layergraft.errors import UserError

AS_THEY_ARE = ReadOptions()
PUT_INTO_FOLDERS = "Put each class into a folder of its own."
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"),
    *(".jfif", ".jpe", ".pgm", ".ppm", ".gif", ".jp2", ".avif", ".npy"),
    *(".dcm", ".fits", ".fit", ".fts", ".nii", ".nii.gz"),
)

_TILE = re.compile(r"#\d+,\d+$")


def is_picture(path: str, endings: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a file is taken for an image: by its ending, unless it or a folder above it is hidden.

    macOS leaves `._name.jpg` and `__MACOSX/` in archives; notebooks leave `.ipynb_checkpoints/` in folders.
    """
    return path.lower().endswith(endings) and not is_hidden(path)


def file_of(name: str) -> str:
    """The file that an image lies in, by the image's name: `slide.svs` of its tile `slide.svs#512,256`."""
    return _TILE.sub("", name)


def is_hidden(path: str) -> bool:
    """Whether a file or a folder above it is hidden, or is what macOS leaves in archives."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.split("/"))


class Images(Protocol):
    """Where the pixels of a source are. Threads call it side by side."""

    def __len__(self) -> int: ...

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        """One image as uint8 of shape (height, width, channels), perhaps reduced; else raises `BadImage`."""
        ...

    def read(self, index: int) -> bytes:
        """The image's file; raises `BadImage` if there is none."""
        ...

    def name(self, index: int) -> str: ...

    def stamp(self, keys: Labels) -> Stamp | None:
        """What the files of these images are now; None where that is not cheap to tell."""
        ...


class EncodedImages(ABC):
    """Images that are files, wherever those are: a kind of source adds `read`, `name` and its length."""

    options = AS_THEY_ARE

    def read_by(self, options: ReadOptions) -> Self:
        """The same images, read by other options."""
        other = copy.copy(self)
        other.options = options
        return other

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The image's file; raises `BadImage` if there is none."""

    def stamp(self, keys: Labels) -> Stamp | None:
        return None

    def size(self, index: int) -> int | None:
        """Bytes of the image's file; None where that is not cheap to tell, or where it is not there."""
        return None

    def start(self, index: int, count: int) -> bytes:
        """The first bytes of the image's file, where its size can be told; raises `BadImage`."""
        return self.read(index)[:count]

    def picture(self, index: int, request: Request) -> Picture:
        """One image before its numbers become grey levels; raises `BadImage`."""
        return read_picture(self.read(index), request)

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        return decode(self.read(index), channels, reduction, self.options)


class Masks(Protocol):
    """Where the masks of a source are; indices are those of its images."""

    def load(self, index: int) -> Mask:
        """One mask, uint8 of shape (height, width)."""
        ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> bytes:
        """The mask's file; raises `UserError`."""
        ...

    def stamp(self, keys: Labels) -> Stamp:
        """What the files of these masks are now."""
        ...

    def largest(self) -> Mask:
        """The largest value of each mask, of shape (N,)."""
        ...


class Blocks(Protocol):
    """Images that are read block by block: one request brings a run of neighbours."""

    @property
    def starts(self) -> Labels:
        """The first image of each block, ascending from 0."""
        ...

    def announce(self, keys: Labels) -> None:
        """Say that these images are wanted soon, so that their blocks can be fetched side by side."""
        ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set of images, perhaps labelled.

    Args:
        spec: the text it was opened from.
        images: where the pixels are.
        keys: indices into `images`, the sample keys, of shape (N,).
        labels: class of every image of `images`, -1 where it has none, or None where no image has one.
        masks: class of every pixel of every image of `images`, or None; 1 is the first of `classes`, 0 is ignored.
        classes: names of the classes.
        fingerprint: changes when files are added, removed or renamed.
        mean: mean of each channel, of pixels in [0, 1], where the source knows it.
        std: likewise the standard deviation.
        blocks: the images themselves where they are read block by block, and so in an order of blocks; else None.
        remarks: sentences for the user about what was assumed or left out.
        label_hint: how to get labels where there are none.
        options: which channels, pages and values of the files become grey levels.
        files: number of the file that every image of `images` was cut from, -1 of what could not be cut; None where
            images are not cut.
    """

    spec: str
    images: Images
    keys: npt.NDArray[np.int64]
    labels: ClassIds | None = None
    masks: Masks | None = None
    classes: list[str] = field(default_factory=list)
    fingerprint: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    blocks: Blocks | None = None
    remarks: tuple[str, ...] = ()
    label_hint: str = PUT_INTO_FOLDERS
    options: ReadOptions = AS_THEY_ARE
    files: ClassIds | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def subset(self, keys: npt.NDArray[np.int64]) -> Source:
        """The same source with other keys."""
        return replace(self, keys=keys)

    def read_by(self, options: ReadOptions) -> Source:
        """The same source, whose files are read by other options.

        Raises:
            UserError: its images are no files, so that there is nothing to choose.
        """
        if options == self.options:
            return self
        images = self.images
        if isinstance(images, EncodedImages):
            images = images.read_by(options)
        elif replace(options, range=None) != AS_THEY_ARE:
            raise UserError(
                f"The images of {self.spec!r} are no files, but arrays of grey or RGB levels.",
                f"They are not read by {replace(options, range=None)}.",
            )
        return replace(self, images=images, options=options)

    @property
    def selected_labels(self) -> Labels:
        """Class of each of `keys`, of shape (N,)."""
        if self.labels is None:
            raise UserError(f"The images of {self.spec!r} have no labels.", self.label_hint)
        labels = self.labels[self.keys].astype(np.int64)
        missing = int((labels < 0).sum())
        if missing:
            raise UserError(
                f"{missing} of {len(labels)} images of {self.spec!r} have no label.", "Label all of them, or none."
            )
        return labels

    @property
    def labelled(self) -> Source:
        """The images that have a label, where a file gives some of them one."""
        return self.subset(self.keys[:0] if self.labels is None else self.keys[self.labels[self.keys] >= 0])

    @property
    def identity(self) -> str:
        """Changes with the names of the images, and with which of them are taken; not with where they lie."""
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=8)
        digest.update(np.sort(self.keys).tobytes())
        return digest.hexdigest()

    def stamp(self) -> Stamp | None:
        """What the images are now, in the order of `keys`; None where that is not cheap to tell."""
        return self.images.stamp(self.keys)
