"""What is picked from: features, what is labelled, and what is too near to a pick to be worth a label."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from layergraft.data.arrays import Indices
from layergraft.data.randomness import Randomness
from layergraft.evaluation.features import Array
from layergraft.runs.interruption import check

_NUMBERS = 2**25  # similarities that are held at once: 128 MB
_SAMPLE = 1000
# Part of the usual distance to the nearest neighbour below which two images count as one.
NEAR = 0.25
_ROUNDING = 1e-6  # of a similarity in float32


class Pool:
    """Images to pick from.

    Args:
        features: unit rows of shape (N, D), float32.
        labelled: rows that have a label, of shape (L,).
        threshold: cosine similarity from which two images count as one; None derives it, see `near_similarity`.
    """

    def __init__(self, features: Array, labelled: Indices, threshold: float | None = None) -> None:
        self.features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        self.threshold = near_similarity(self.features) if threshold is None else threshold
        self.known: list[int] = []
        """Rows that are labelled or picked."""
        self.free = torch.ones(len(self.features), dtype=torch.bool)
        """Rows that may be picked, of shape (N,)."""
        for row in labelled.tolist():
            self.take(row)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def block(self) -> int:
        """How many similarities are held at once."""
        return _NUMBERS

    def take(self, row: int) -> None:
        """Note a pick or a label: it and its near-duplicates are no longer free."""
        self.known.append(row)
        self.free &= self.features @ self.features[row] < self.threshold
        self.free[row] = False

    def similarities(self, rows: Tensor, others: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Cosine similarities of some rows with all, a block at a time, so that no (N, N) matrix is ever there.

        Args:
            rows: of shape (R,).
            others: features of shape (M, D) that take the place of all.

        Yields:
            (part of `rows`, similarities of shape (rows of the part, M)).
        """
        others = self.features if others is None else others
        count = max(1, self.block // max(1, len(others)))
        for start in range(0, len(rows), count):
            check()
            part = slice(start, min(start + count, len(rows)))
            yield part, self.features[rows[part]] @ others.T


def near_similarity(features: Tensor) -> float:
    """The cosine similarity from which two images count as near-duplicates.

    Two images are one where their distance is below a quarter of the median distance from an image to its nearest
    neighbour. It is measured on up to 1,000 of the images, drawn at random, against all.

    Args:
        features: unit rows of shape (N, D).
    """
    if len(features) < 2:
        return 1.0
    drawn = Randomness(seed=0, scope="pick").permutation("near", np.arange(len(features)), 0, first=_SAMPLE)
    rows = torch.from_numpy(drawn)
    nearest = torch.empty(len(rows))
    count = max(1, _NUMBERS // len(features))
    for start in range(0, len(rows), count):
        part = rows[start : start + count]
        similarity = features[part] @ features.T
        similarity[torch.arange(len(part)), part] = -1
        nearest[start : start + count] = similarity.amax(1)
    # Of unit rows, distance squared is 2 - 2 similarity.
    return 1 - max(NEAR**2 * (1 - float(nearest.median())), _ROUNDING)
