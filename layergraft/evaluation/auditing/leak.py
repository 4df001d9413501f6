"""Test images that are among the training images: looked for in passing, at a small part of what features cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layergraft.data.decode import BadImage
from layergraft.data.sources.source import Source
from layergraft.evaluation.auditing.near import likeness, likeness_threshold, nearest_rows, windows
from layergraft.evaluation.auditing.pictures import shrink
from layergraft.evaluation.features import Array
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted

NEAR_SHARE = 0.01  # of the test images, from which on near-duplicates are worth a warning
_LOOKED_AT = 0.015  # share of the test images whose pixels are compared
_FEWEST, _COPIES = 20, 20


@dataclass(frozen=True, kw_only=True)
class LeakFound:
    """How many test images are among the training images.

    Args:
        exact: with the same pixels.
        near: of one picture with another, besides.
        compared: test images whose pixels were compared: those nearest to a training image by features.
        images: test images.
    """

    exact: int
    near: int
    compared: int
    images: int

    @property
    def warning(self) -> str:
        """What to say about it; empty where it is nothing to speak of."""
        if not self.exact and self.near <= NEAR_SHARE * self.images:
            return ""
        least = "at least " if self.exact + self.near == self.compared < self.images else ""
        return (
            f"Of {counted(self.images, 'test image')}, {least}{self.exact:,} are among the training images and "
            f"{self.near:,} are near-duplicates of one: accuracies are too high. `layergraft audit --test` names them."
        )


def find_leak(train: Source, test: Source, train_features: Array, test_features: Array) -> LeakFound:
    """Compare the pixels of the test images that are nearest to a training image by features.

    Args:
        train: training images, all readable.
        test: test images, all readable.
        train_features: as unit rows of shape (N, D).
        test_features: as unit rows of shape (M, D).
    """
    nearest = np.zeros(len(test), dtype=np.int64)
    similarity = np.zeros(len(test), dtype=np.float32)
    for start, rows, values in nearest_rows(test_features, train_features, 1, within=False):
        nearest[start : start + len(rows)] = rows[:, 0]
        similarity[start : start + len(rows)] = values[:, 0]
    compared = min(len(test), max(_FEWEST, int(_LOOKED_AT * len(test))))
    threshold = likeness_threshold(train, _COPIES)
    exact = near = 0
    for row in np.argsort(-similarity, kind="stable")[:compared].tolist():
        check()
        try:
            image = test.images.load(int(test.keys[row]), 3)
            other = train.images.load(int(train.keys[nearest[row]]), 3)
        except BadImage:  # gone meanwhile
            continue
        if np.array_equal(image, other):
            exact += 1
        elif likeness(windows(shrink(image)), windows(shrink(other))) >= threshold:
            near += 1
    return LeakFound(exact=exact, near=near, compared=compared, images=len(test))
