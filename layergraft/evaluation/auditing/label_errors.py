"""Likely label errors by confident learning (Northcutt, Jiang and Chuang, JAIR 2021, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Labels
from layergraft.evaluation.conformal import Probabilities


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """What out-of-fold probabilities say about labels.

    Args:
        order: labelled rows, the likeliest error first: by the probability of the given class, of shape (n,).
        flagged: whether the confident joint puts a row into another class than it is labelled, of shape (n,).
        suggested: the class that it is put into; the given one where none is confident, of shape (n,).
        estimated: how many labels are wrong, by the joint distribution of given and true labels.
    """

    order: Labels
    flagged: npt.NDArray[np.bool_]
    suggested: Labels
    estimated: float


def find_label_errors(probabilities: Probabilities, labels: Labels) -> LabelErrors:
    """Compare each label with what a classifier that never saw it is confident of.

    A class is confident where its probability reaches the mean probability that images labelled so have of it.

    Args:
        probabilities: out of fold, of shape (n, C).
        labels: given classes, below C, of shape (n,).
    """
    count, classes = probabilities.shape
    labelled = np.bincount(labels, minlength=classes)  # images of each given class
    of_label = probabilities[np.arange(count), labels]
    means = np.bincount(labels, weights=of_label, minlength=classes) / np.maximum(labelled, 1)
    thresholds = np.where(labelled > 0, means, np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    counted = confident.max(axis=1, initial=-1.0) >= 0
    suggested = np.where(counted, confident.argmax(axis=1), labels)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[counted], suggested[counted]), 1)
    rows = joint.sum(axis=1, keepdims=True)
    # Rows are scaled to the labels that there are; a class nobody is confident of has none that are wrong.
    calibrated = np.where(rows > 0, joint / np.maximum(rows, 1) * labelled[:, None], np.diag(labelled))
    return LabelErrors(
        order=np.argsort(of_label, kind="stable"),
        flagged=suggested != labels,
        suggested=suggested.astype(np.int64),
        estimated=float(calibrated.sum() - np.trace(calibrated)),
    )
