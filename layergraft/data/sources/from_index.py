"""From an index to a source."""

from __future__ import annotations

import numpy as np

from layergraft.data.sources.index import Index
from layergraft.data.sources.labels import ordered_labels
from layergraft.data.sources.source import PUT_INTO_FOLDERS, Blocks, Images, Source


def as_source(spec: str, images: Images, index: Index, blocks: Blocks | None = None) -> Source:
    """All images of an index as a source; sample key = row.

    Args:
        spec: what the user wrote.
        images: where the pixels are, in the order of the index.
        index: gives labels, classes, fingerprint and remarks.
        blocks: the images once more where they are read block by block.
    """
    labels, classes = ordered_labels(index)
    return Source(
        spec=spec,
        images=images,
        keys=np.arange(len(images), dtype=np.int64),
        labels=labels,
        classes=classes,
        fingerprint=index.fingerprint,
        blocks=blocks,
        remarks=tuple(index.remarks),
        label_hint=index.label_hint or PUT_INTO_FOLDERS,
    )
