"""Sources of images: a folder (flat, or one subfolder per class) or a built-in set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from layergraft.data.decode import BadImage, Reduction, decode
from layergraft.data.masks import FolderMasks, Masks, class_names, match_masks, paired_folders, validation_of
from layergraft.errors import UserError, nearest
from layergraft.randomness import Randomness

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
Image = npt.NDArray[np.uint8]


class Images(Protocol):
    """Where the pixels of a source are."""

    def __len__(self) -> int: ...

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Image:
        """One image as uint8 of shape (height, width, channels), perhaps reduced; else raises `BadImage`."""
        ...

    def read(self, index: int) -> bytes:
        """The image's file; raises `BadImage` if there is none."""
        ...

    def name(self, index: int) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set of images, perhaps labelled.

    Args:
        spec: the text it was opened from.
        images: where the pixels are.
        keys: indices into `images`, the sample keys, of shape (N,).
        labels: class of every image of `images`, or None.
        masks: class of every pixel of every image of `images`, or None; 1 is the first of `classes`, 0 is ignored.
        classes: names of the classes.
        fingerprint: changes when files are added, removed or renamed.
        mean: mean of each channel, of pixels in [0, 1], where the source knows it.
        std: likewise the standard deviation.
    """

    spec: str
    images: Images
    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None = None
    masks: Masks | None = None
    classes: list[str] = field(default_factory=list)
    fingerprint: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def subset(self, keys: npt.NDArray[np.int64]) -> Source:
        """The same source with other keys."""
        return replace(self, keys=keys)

    @property
    def own_labels(self) -> npt.NDArray[np.int64]:
        """Class of each of `keys`, of shape (N,)."""
        if self.labels is None:
            raise UserError(f"The images of {self.spec!r} have no labels.", "Put each class into a folder of its own.")
        return self.labels[self.keys]


class FolderImages:
    """Image files below a folder; their paths live in one buffer, however many they are."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        self.root = root
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._bytes[start : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Image:
        return decode(self.read(index), channels, reduction)

    def read(self, index: int) -> bytes:
        try:
            return (self.root / self.name(index)).read_bytes()
        except OSError as error:
            raise BadImage(f"unreadable: {error.strerror}") from None

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(self._bytes, digest_size=8).hexdigest()


def _open_folder(spec: str, root: Path) -> Source:
    paths: list[str] = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else relative + os.sep
        paths += [prefix + file for file in files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES]
    if not paths:
        raise UserError(
            f"There is no image in the folder {str(root)!r}.",
            f"Looked for files ending in {' '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    paths.sort(key=os.fsencode)
    images = FolderImages(root, paths)
    tops = [path.split(os.sep, 1)[0] if os.sep in path else "" for path in paths]
    classes = sorted(set(tops))
    labels = None
    if "" not in classes and len(classes) > 1:
        index = {name: i for i, name in enumerate(classes)}
        labels = np.array([index[top] for top in tops], dtype=np.int64)
    return Source(
        spec=spec,
        images=images,
        keys=np.arange(len(paths), dtype=np.int64),
        labels=labels,
        classes=classes if labels is not None else [],
        fingerprint=images.fingerprint,
    )


def _open_masks(spec: str, images: Path, masks: Path) -> Source:
    """Images with a mask each."""
    source = _open_folder(spec, images)
    names = match_masks([source.images.name(index) for index in range(len(source))], masks)
    return replace(source, labels=None, masks=FolderMasks(masks, names), classes=class_names(masks))


def _select(source: Source, query: dict[str, str]) -> Source:
    """Apply what follows the `?` of a SOURCE."""
    known = {"mean", "std", "fraction", "shots", "seed"}
    for key in query:
        if key not in known:
            raise UserError(f"{source.spec!r} has an unknown option {key!r}.", nearest(key, known))
    try:
        statistics = {k: tuple(float(x) for x in query[k].split(",")) for k in ("mean", "std") if k in query}
        seed = int(query.get("seed", 0))
        fraction, shots = float(query.get("fraction", 1)), int(query.get("shots", 0))
    except ValueError as error:
        raise UserError(f"{source.spec!r} has an option of the wrong type: {error}.") from None
    source = replace(source, mean=statistics.get("mean", source.mean), std=statistics.get("std", source.std))
    order = Randomness(seed=seed, scope="subset").permutation("order", source.keys, 0)
    if fraction < 1:
        order = order[: max(1, round(fraction * len(order)))]
    if shots:
        labels = source.own_labels
        order = np.concatenate([order[labels[order] == c][:shots] for c in range(len(source.classes))])
    return source.subset(np.sort(source.keys[order]))


def open_source(spec: str) -> Source:
    """Open a SOURCE.

    Args:
        spec: a folder (flat, by class, or `images` and `annotations` as ADE20K has them), `builtin:fashion`,
            `builtin:fashion-canvas` or `builtin:fashion-scenes` (with `:train` or `:test`), and optionally
            `?fraction=0.1&seed=0`, `?shots=5&seed=0`, `?mean=…&std=…`.

    Raises:
        UserError: there is no such folder or set, or no image in it.
    """
    from layergraft.data.fashion.load import open_builtin

    place, _, options = spec.partition("?")
    if place.startswith("builtin:"):
        source = open_builtin(spec, place)
    else:
        root = Path(place).expanduser()
        if not root.exists():
            raise UserError(f"There is no folder {place!r}.", "Give a folder of images, or `builtin:fashion-canvas`.")
        if not root.is_dir():
            raise UserError(f"{place!r} is not a folder.", "Give the folder that holds the images.")
        pair = paired_folders(root)
        source = _open_masks(spec, *pair) if pair else _open_folder(spec, root)
    return _select(source, dict(parse_qsl(options, keep_blank_values=True)))


def default_test_source(spec: str) -> str | None:
    """The SOURCE of the test images that belong to training images, or None where there is none."""
    place, mark, options = spec.partition("?")
    statistics = "&".join(f"{k}={v}" for k, v in parse_qsl(options) if k in ("mean", "std"))
    tail = f"?{statistics}" if mark and statistics else ""
    if place.startswith("builtin:"):
        return place.removesuffix(":train").removesuffix(":test") + ":test" + tail
    folder = Path(place).expanduser()
    validation = validation_of(folder)
    if validation is not None:
        return str(validation) + tail
    for name in ("val", "test"):
        if folder.name == "train" and (folder.parent / name).is_dir():
            return str(folder.parent / name) + tail
    return None


def split_holdout(source: Source, holdout: int | float, seed: int) -> tuple[Source, Source]:
    """Split a source into images that train and images that every choice is made on.

    Args:
        source: the training source.
        holdout: a count, or a fraction below 1; capped at a fifth of the source.
        seed: the recipe's seed.

    Returns:
        (training images, held-out images); stratified by class where there are labels.
    """
    wanted = round(holdout * len(source)) if 0 < holdout < 1 else int(holdout)
    count = min(wanted, len(source) // 5)
    order = Randomness(seed=seed, scope="holdout").permutation("order", source.keys, 0)
    if source.labels is not None:
        # Deal the classes in turn: position of an image within its class first.
        labels = source.own_labels[order]
        rank = np.empty(len(order), dtype=np.int64)
        for c in np.unique(labels):
            rank[labels == c] = np.arange(int((labels == c).sum()))
        order = order[np.lexsort((np.arange(len(order)), rank))]
    keys = source.keys[order]
    return source.subset(np.sort(keys[count:])), source.subset(np.sort(keys[:count]))
