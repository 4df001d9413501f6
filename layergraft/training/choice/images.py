"""What is asked of a user's images before a recipe is chosen for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from layergraft.data.decode.options import with_options
from layergraft.data.first_look import DARK, FirstLook, look_at
from layergraft.data.sources.blocks import BlockImages
from layergraft.data.sources.files import FileImages
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.sources.source import Source
from layergraft.data.survey import channels_of
from layergraft.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """What a set of images is like, as far as a recipe depends on it.

    Args:
        spec: the SOURCE.
        count: images.
        side: median of their shorter sides in pixels; 0 where none was looked at.
        channels: of an encoder for them.
        bands: what the channels are: `colour`, `grey` or `bands`.
        deep: whether they are whole numbers of 16 bits that would be nearly black as they are.
        classes: classes with images; 0 where there are no labels.
        smallest: images of the smallest class.
        test: SOURCE of test images beside them, or None.
        untestable: why nothing can be measured on those test images, or None.
    """

    spec: str
    count: int
    side: int
    channels: int
    bands: str
    deep: bool = False
    classes: int = 0
    smallest: int = 0
    test: str | None = None
    untestable: str | None = None


def look_at_images(spec: str) -> ImageSet:
    """Open a SOURCE, count its images and classes, and look at a few images.

    Raises:
        UserError: there are no such images.
    """
    source = open_source(spec)
    if not len(source):
        raise UserError(f"{spec!r} has no image.")
    look = look_at(source)
    channels, bands = _channels(source, look)
    deep = source.options.range is None and 2 * look.deep > look.images and 0 < look.largest < DARK
    counts = _class_counts(source)
    if len(counts) in (1, len(source)):  # all alike, or a name of its own for each image: nothing to tell apart
        counts = {}
    test = default_test_source(spec)
    return ImageSet(
        spec=with_options(spec, replace(source.options, range="auto")) if deep else spec,
        count=len(source),
        side=look.side,
        channels=channels,
        bands=bands,
        deep=deep,
        classes=len(counts),
        smallest=min(counts.values(), default=0),
        test=test,
        untestable=_untestable(test, set(counts)) if test and counts else None,
    )


def _channels(source: Source, look: FirstLook) -> tuple[int, str]:
    """Channels of the encoder, and what they are; of images far away colour is assumed."""
    files = source.images
    if isinstance(files, BlockImages) or (isinstance(files, FileImages) and files.root.remote):
        return 3, "colour"
    channels = channels_of(source)
    if channels == 3 and look.images and not look.coloured and source.options.channels is None:
        return 1, "grey"
    return channels, {1: "grey", 3: "colour"}.get(channels, "bands")


def _class_counts(source: Source) -> dict[str, int]:
    """Images of each class; none where not every image has a label."""
    if source.labels is None:
        return {}
    labels = source.labels[source.keys].astype(np.int64)
    if (labels < 0).any():
        return {}
    counts = np.bincount(labels, minlength=len(source.classes))
    return {name: int(count) for name, count in zip(source.classes, counts, strict=True) if count}


def _untestable(test: str, classes: set[str]) -> str | None:
    """Why nothing can be measured on test images: found out now rather than after the training."""
    try:
        images = open_source(test)
    except UserError as error:
        return error.problem
    found = _class_counts(images)
    if not found:
        return f"{test!r} has no labels"
    unknown = sorted(set(found) - classes)
    return f"{test!r} has classes that do not train: {', '.join(unknown[:3])}" if unknown else None
