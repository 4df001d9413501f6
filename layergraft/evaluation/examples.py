"""What a classifier made of the images that it was measured on, to be kept for the report."""

from __future__ import annotations

import numpy as np

from layergraft.data.arrays import Indices, Labels
from layergraft.data.decode import BadImage
from layergraft.data.sources.source import Source
from layergraft.data.thumbnails import address
from layergraft.runs.examples import Example, Examples
from layergraft.runs.interruption import check
from layergraft.runs.results import ResultRow

_SHOWN = 10  # images of each kind: a row of the page
_MOST_PAIRS = 3600  # of mistakes: all of 60 classes


def examples_of(
    row: ResultRow, classified: Source, classes: list[str], truth: Labels, predicted: Labels, channels: int
) -> Examples:
    """Count what was taken for what, and draw images that were named rightly and wrongly.

    Args:
        row: the measurement.
        classified: the images, in the order of `truth`.
        classes: their names.
        truth: index of each image's class, of shape (N,).
        predicted: index of the class that it was taken for, of shape (N,).
        channels: of the small pictures' pixels.
    """
    classes = [_text(name) for name in classes]
    pairs, counts = np.unique(np.stack([truth, predicted], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    right = pairs[order, 0] == pairs[order, 1]  # all of these stay: their sum is the accuracy
    order = order[right | (np.cumsum(~right) <= _MOST_PAIRS)]
    drawn = np.random.default_rng(0).permutation(len(truth))
    hit = truth[drawn] == predicted[drawn]
    shown = [
        example
        for part in (drawn[hit], drawn[~hit])
        for example in _shown(classified, part[:_SHOWN], classes, truth, predicted, channels)
    ]
    return Examples(
        encoder=row.encoder,
        source=row.source,
        test=row.test,
        protocol=row.protocol,
        variant=row.variant,
        shots=row.shots,
        split=row.split,
        pooling=row.pooling,
        seed=row.seed,
        n_train=row.n_train,
        classes=classes,
        images=np.bincount(truth, minlength=len(classes)).tolist(),
        taken=[[*pairs[i].tolist(), int(counts[i])] for i in order],
        examples=shown,
    )


def _shown(
    classified: Source, rows: Indices, classes: list[str], truth: Labels, predicted: Labels, channels: int
) -> list[Example]:
    """Small pictures of some of the images; one that cannot be read any more is left out."""
    shown = []
    for row in rows.tolist():
        check()
        key = int(classified.keys[row])
        try:
            pixels = classified.images.load(key, channels)
        except BadImage:
            continue
        shown.append(
            Example(
                file=_text(classified.images.name(key)),
                label=classes[int(truth[row])],
                predicted=classes[int(predicted[row])],
                image=address(pixels),
            )
        )
    return shown


def _text(name: str) -> str:
    """A name as JSON may hold it: that of a file may have bytes that are no text."""
    return name.encode("utf-8", "replace").decode()
