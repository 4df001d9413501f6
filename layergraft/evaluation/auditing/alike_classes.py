"""Classes that a classifier cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from layergraft.data.arrays import Labels
from layergraft.evaluation.conformal import Probabilities
from layergraft.runs.intervals import wilson

FEWEST = 5  # labelled images of a class of which something is said


@dataclass(frozen=True, kw_only=True)
class ClassPair:
    """How well two classes are told apart, between the two alone.

    Args:
        first: a class.
        second: another.
        accuracy: share of their labelled images that are on the right side, out of fold, in percent.
        low: lower end of its 95 % interval.
        chance: accuracy of always naming the larger of both.
        images: how many labelled images they have.
    """

    first: int
    second: int
    accuracy: float
    low: float
    chance: float
    images: int

    @property
    def alike(self) -> bool:
        """Whether it may be chance."""
        return self.low <= self.chance


def compare_classes(probabilities: Probabilities, labels: Labels) -> list[ClassPair]:
    """Every pair of classes with at least five labelled images each, those told apart worst first.

    Args:
        probabilities: out of fold, of shape (n, C).
        labels: given classes, below C, of shape (n,).
    """
    rows = [np.flatnonzero(labels == number) for number in range(probabilities.shape[1])]
    enough = [number for number, of_class in enumerate(rows) if len(of_class) >= FEWEST]
    pairs = []
    for first, second in combinations(enough, 2):
        margin = probabilities[:, first] - probabilities[:, second]
        right = int((margin[rows[first]] > 0).sum() + (margin[rows[second]] < 0).sum())
        images = len(rows[first]) + len(rows[second])
        accuracy = 100 * right / images
        pairs.append(
            ClassPair(
                first=first,
                second=second,
                accuracy=accuracy,
                low=wilson(accuracy, images)[0],
                chance=100 * max(len(rows[first]), len(rows[second])) / images,
                images=images,
            )
        )
    return sorted(pairs, key=lambda pair: pair.accuracy)
