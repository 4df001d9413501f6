"""Masks: the class of every pixel, beside the images of a source.

A mask file holds 0 where pixels are ignored and 1 for the first class. Folders are paired as ADE20K ships them:
`images/training` with `annotations/training`, `images/validation` with `annotations/validation`, by file name.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from layergraft.config.data import ViewConfig
from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.config.paths import read_regular
from layergraft.data.arrays import Labels, Mask
from layergraft.data.decode import BadImage
from layergraft.data.sources.file_state import Stamp, stamp_files
from layergraft.data.sources.source import Source
from layergraft.data.view_parameters import Draws, draw_parameters
from layergraft.errors import UserError

SHOWN = 5


class ArrayMasks:
    """Masks in memory, of shape (N, height, width)."""

    def __init__(self, pixels: Mask) -> None:
        self.pixels = pixels

    def largest(self) -> Mask:
        return np.asarray(self.pixels.max(axis=(1, 2)), dtype=np.uint8)

    def load(self, index: int) -> Mask:
        mask: Mask = self.pixels[index]
        return mask

    def name(self, index: int) -> str:
        return f"mask {index}"

    def read(self, index: int) -> bytes:
        return self.load(index).tobytes()

    def stamp(self, keys: Labels) -> Stamp:
        content = hashlib.blake2b(repr(self.pixels.shape[1:]).encode(), digest_size=16)
        content.update(self.pixels[keys].tobytes())
        return Stamp(text=content.hexdigest(), certain=True, is_content=True)


@dataclass(frozen=True)
class FolderMasks:
    """Mask files below a folder, in the order of the images.

    Args:
        root: the folder.
        names: their paths below it.
    """

    root: Path
    names: tuple[str, ...]

    def largest(self) -> Mask:
        return _largest(self)

    def name(self, index: int) -> str:
        return self.names[index]

    def stamp(self, keys: Labels) -> Stamp:
        return stamp_files(os.fsencode(self.root / self.names[key]) for key in keys.tolist())

    def read(self, index: int) -> bytes:
        path = self.root / self.names[index]
        try:
            return read_regular(path)
        except OSError as error:
            raise UserError(f"The mask {str(path)!r} cannot be read: {error}.", "Mend or remove the pair.") from None

    def load(self, index: int) -> Mask:
        path = self.root / self.names[index]
        try:
            with PillowImage.open(io.BytesIO(self.read(index))) as picture:
                # Not OpenCV: it would turn the numbers of a palette into its colours.
                if picture.mode not in ("L", "P"):
                    raise UserError(
                        f"The mask {str(path)!r} holds {picture.mode} pixels.",
                        "Masks hold one number a pixel: 8-bit grey or palette.",
                    )
                return np.asarray(picture, dtype=np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"The mask {str(path)!r} cannot be read: {error}.", "Mend or remove the pair.") from None


@cache
def _largest(masks: FolderMasks) -> Mask:
    """Read all files, once in the life of a process."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        values = pool.map(lambda index: masks.load(index).max(initial=0), range(len(masks.names)))
        return np.array(list(values), dtype=np.uint8)


def paired_folders(root: Path) -> tuple[Path, Path] | None:
    """(images, masks) that a folder stands for, or None where it has no masks.

    COCO, Pascal VOC and others keep boxes in `annotations`, which are none.

    Args:
        root: a folder with `images` and `annotations`, or one of the parts of `images`.
    """
    images, masks = root, root.parent.parent / "annotations" / root.name
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        part = "training" if (root / "images" / "training").is_dir() else ""
        images, masks = root / "images" / part, root / "annotations" / part
    elif root.parent.name != "images":
        return None
    return (images, masks) if masks.is_dir() and _holds_masks(images, masks) else None


def _holds_masks(images: Path, annotations: Path) -> bool:
    """Whether there is a PNG where an image's mask would lie."""
    for folder, _, files in os.walk(annotations):
        is_pair = (images / os.path.relpath(folder, annotations)).is_dir()
        if is_pair and any(file.lower().endswith(".png") for file in files):
            return True
    return False


def validation_of(root: Path) -> Path | None:
    """The images that test those of `root`: `images/validation` for `images/training`."""
    pair = paired_folders(root)
    if pair is None or pair[0].name != "training":
        return None
    validation = pair[0].with_name("validation")
    return validation if validation.is_dir() else None


def class_names(masks: Path) -> list[str]:
    """Names of the classes from `objectInfo150.txt` (ADE20K) or `classes.txt`, one a line, beside `annotations`.

    Raises:
        UserError: such a file is not UTF-8.
    """
    top = masks if masks.name == "annotations" else masks.parent
    for file in (top.parent / "objectInfo150.txt", top.parent / "classes.txt"):
        if file.is_file():
            try:
                lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            except UnicodeDecodeError:
                raise UserError(f"The names of classes in {str(file)!r} are not UTF-8.", "Save it as UTF-8.") from None
            if file.name == "objectInfo150.txt":  # a header, then number, ratio, train, val and name, by tabs
                return [line.split("\t")[-1].strip() for line in lines[1:]]
            return [line.strip() for line in lines]
    return []


def match_masks(images: list[str], root: Path) -> tuple[str, ...]:
    """The mask file of each image.

    Args:
        images: paths of the images, relative to their folder.
        root: folder of the masks.

    Raises:
        UserError: an image has no mask, or a mask no image.
    """
    masks: dict[str, str] = {}  # path of an image without its suffix -> its mask
    for folder, _, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else relative + os.sep
        masks |= {os.path.splitext(prefix + file)[0]: prefix + file for file in files if file.lower().endswith(".png")}
    stems = [os.path.splitext(path)[0] for path in images]
    without_mask = [path for path, stem in zip(images, stems, strict=True) if stem not in masks]
    without_image = sorted(masks[stem] for stem in masks.keys() - set(stems))
    if without_mask or without_image:
        parts = [
            f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
            for kind, names in (("images without a mask", without_mask), ("masks without an image", without_image))
            if names
        ]
        raise UserError(
            f"Images and masks in {str(root)!r} do not match: {'; '.join(parts)}.",
            "Each image needs a PNG of the same name, and the other way round.",
        )
    return tuple(masks[stem] for stem in stems)


def check_masks(source: Source, classes: int | None) -> int:
    """Find values that no class has.

    Args:
        source: with masks.
        classes: how many classes there are, or None where the masks are to tell.

    Returns:
        The number of classes: `classes`, or the largest value.

    Raises:
        UserError: a value is above `classes`, or there is nothing but ignored pixels.
    """
    masks = source.masks
    assert masks is not None
    largest = masks.largest()[source.keys]
    top = int(largest.max(initial=0))
    if not top and len(source):
        raise UserError(f"All {len(source)} masks of {source.spec!r} are 0, which is ignored.", "Classes count from 1.")
    if classes is None:
        return top
    wrong = np.flatnonzero(largest > classes)
    if len(wrong):
        names = ", ".join(f"{masks.name(int(source.keys[index]))} ({largest[index]})" for index in wrong[:SHOWN])
        raise UserError(
            f"{len(wrong)} of {len(source)} masks of {source.spec!r} hold values above the number of classes, "
            f"{classes}: {names}{' …' if len(wrong) > SHOWN else ''}.",
            "0 is ignored, 1 is the first class; is 255 meant to be ignored?",
        )
    return classes


def mask_view(mask: Mask, config: ViewConfig, size: ImageSize, draws: Draws) -> Mask:
    """The mask under a random view of its image: the same crop and flip, nearest neighbours.

    Args:
        mask: of shape (H, W), the size of the image.
        config: of the view.
        size: of the view.
        draws: of the view.
    """
    parameters = draw_parameters(mask.shape[0], mask.shape[1], config, draws, size)
    top, left, height, width = parameters.box
    crop = np.ascontiguousarray(mask[top : top + height, left : left + width])
    view: Mask = cv2.resize(crop, height_and_width(size)[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return view[:, ::-1] if parameters.flip else view


def mask_of(source: Source, key: int, image: npt.NDArray[np.uint8]) -> Mask:
    """The mask of an image, which must have its size."""
    assert source.masks is not None
    mask = source.masks.load(key)
    if image.shape[:2] != mask.shape:
        image_size, mask_size = (f"{height}×{width}" for height, width in (image.shape[:2], mask.shape))
        raise UserError(
            f"The image {source.images.name(key)!r} has {image_size} pixels, "
            f"its mask {source.masks.name(key)!r} {mask_size}.",
            "Mend or remove the pair.",
        )
    return mask


def pairs(source: Source, channels: int) -> Iterator[tuple[npt.NDArray[np.uint8], Mask]]:
    """Images and masks of a source in its order, at their own sizes."""
    for key in source.keys.tolist():
        try:
            image = source.images.load(key, channels)
        except BadImage as error:
            name = source.images.name(key)
            raise UserError(
                f"The image {name!r} of {source.spec!r} cannot be read: {error}.", "Mend or remove the pair."
            ) from None
        yield image, mask_of(source, key, image)
