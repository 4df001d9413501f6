"""The class of every image of a source with its probability, the runner-up, and whether the set of classes is sure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Indices, Labels
from layergraft.evaluation.conformal import Probabilities, sets
from layergraft.evaluation.features import Array
from layergraft.evaluation.labelled_classifier import LabelledClassifier, nearest_labelled
from layergraft.runs.interruption import check

_BLOCK = 2**14
NOTHING = -1


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a classifier says of N images; `NOTHING` and NaN of those that cannot be read.

    Args:
        classes: names.
        label: class of each, of shape (N,).
        probability: of that class.
        second: the class with the next probability; `NOTHING` where there is one class alone.
        second_probability: its probability.
        sure: whether the set of each is that single class; None where no error rate can be kept.
        nearest: position of the labelled image nearest to each, of shape (N,), or None.
    """

    classes: list[str]
    label: Labels
    probability: npt.NDArray[np.float64]
    second: Labels
    second_probability: npt.NDArray[np.float64]
    sure: npt.NDArray[np.bool_] | None
    nearest: Indices | None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which images could be read."""
        return np.asarray(self.label != NOTHING)


def predict_all(
    features: Array, classes: list[str], classifier: LabelledClassifier, labelled: Indices | None
) -> Prediction:
    """Classify every image; labelled ones by classifiers that were fitted without them.

    Args:
        features: of shape (N, D); NaN for an image that cannot be read.
        classes: names, C of them.
        classifier: of C classes.
        labelled: positions of the n images that it was fitted to, in its order; None where it came from elsewhere.
    """
    count = len(features)
    label, second = np.full((2, count), NOTHING, dtype=np.int64)
    probability, second_probability = np.full((2, count), np.nan)
    sure = np.zeros(count, dtype=bool)
    nearest = np.full(count, NOTHING, dtype=np.int64)
    readable = np.flatnonzero(~np.isnan(features[:, 0]))
    number = np.full(count, NOTHING, dtype=np.int64)  # of a labelled image among the labelled ones
    if labelled is not None:
        number[labelled] = np.arange(len(labelled))
    for start in range(0, len(readable), _BLOCK):
        check()
        rows = readable[start : start + _BLOCK]
        known = classifier.probabilities(features[rows])
        if classifier.out_of_fold is not None:
            is_labelled = number[rows] != NOTHING
            known[is_labelled] = classifier.out_of_fold[number[rows][is_labelled]]
        label[rows], probability[rows], second[rows], second_probability[rows] = _two_best(known)
        if classifier.threshold is not None:
            sure[rows] = sets(known, classifier.threshold).sum(1) == 1
        if labelled is not None:
            nearest[rows] = labelled[nearest_labelled(features[rows], features[labelled], number[rows])]
    return Prediction(
        classes=classes,
        label=label,
        probability=probability,
        second=second,
        second_probability=second_probability,
        sure=sure if labelled is not None else None,
        nearest=nearest if labelled is not None else None,
    )


def _two_best(
    known: Probabilities,
) -> tuple[Labels, npt.NDArray[np.float64], Labels, npt.NDArray[np.float64]]:
    """(best class, its probability, second class, its probability) of each row; of equal ones the first."""
    rows = np.arange(len(known))
    best = known.argmax(1)
    first = known[rows, best].copy()
    if known.shape[1] == 1:
        return best, first, np.full(len(known), NOTHING, dtype=np.int64), np.full(len(known), np.nan)
    others = known.copy()
    others[rows, best] = -1.0
    second = others.argmax(1)
    return best, first, second, others[rows, second]
