"""What the labels so far say about the classifier: its accuracy, and whether more of them would help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from layergraft.data.arrays import Labels
from layergraft.evaluation.cross_validation import FOLDS, deal_folds
from layergraft.evaluation.features import Array
from layergraft.evaluation.few_shot import FEW_SHOT, exact, predict
from layergraft.runs.intervals import Z

LEAST = 10  # labels from which on an estimate is shown
SMALL, MOST = 1.0, 5.0  # points that a doubling gains when labels have stopped helping, and at its interval's upper end
_REPEATS = 4


@dataclass(frozen=True, kw_only=True)
class Point:
    """Estimated accuracy in percent, with its 95 % interval.

    Args:
        accuracy: share of the labelled images that classifiers of the others get right.
        low: lower end.
        high: upper end.
    """

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the last doubling of the labels gained, in points of accuracy, with its 95 % interval.

    Args:
        gain: of classifiers of all other labels over those of half of them.
        low: lower end.
        high: upper end.
    """

    gain: float
    low: float
    high: float

    @property
    def enough(self) -> bool:
        """Whether more labels have stopped helping."""
        return self.gain < SMALL and self.high <= MOST

    def sentence(self) -> str:
        """For a person."""
        gain, low, high = (f"{round(value):+d}".replace("-", "−") for value in (self.gain, self.low, self.high))
        measured = f"the last doubling gained {gain} points (95 % interval {low} to {high})"
        if self.enough:
            return f"More labels hardly help: {measured}."
        if self.low > 0:
            return f"More labels help: {measured}."
        return f"Too few labels to tell whether more help: {measured}."


def advise(features: Array, labels: Labels, classes: int, strength: float) -> Advice:
    """Compare classifiers of all labels with classifiers of half of them, on labelled images that neither has seen.

    The interval is of the mean over images, with one more image that only the first gets right and one that only the
    second does: without them an interval of differences that are all 0 would have no width.

    Args:
        features: prepared, of shape (n, D).
        labels: of shape (n,), below `classes`.
        classes: number of classes.
        strength: lambda * n of the classifiers.
    """
    protocol = FEW_SHOT["logistic"]
    x, y = exact(torch.from_numpy(features)), torch.from_numpy(labels)
    gains = np.zeros(len(labels))
    for seed in range(_REPEATS):
        for fitted, tested in deal_folds(labels, FOLDS, seed):
            half = fitted[deal_folds(labels[fitted], 2, seed)[0][0]]
            pair = [protocol.fit_path(x[rows], y[rows], classes, [strength])[0] for rows in (fitted, half)]
            right = (predict(pair, x[tested]) == y[tested]).double().numpy()
            gains[tested] += (right[0] - right[1]) / _REPEATS
    padded = np.concatenate([gains, [1.0, -1.0]])
    mean, error = 100 * float(padded.mean()), 100 * float(padded.std(ddof=1)) / len(padded) ** 0.5
    return Advice(gain=mean, low=mean - Z * error, high=mean + Z * error)
