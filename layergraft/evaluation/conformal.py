"""Sets of classes that hold the right one as often as was asked for, whatever the classifier is worth.

The score of a class is 1 minus its probability (Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers
with bounded error levels", JASA 2019). Its quantile comes from out-of-fold probabilities (cross-conformal: Vovk,
"Cross-conformal predictors", 2015), so that no label is spent on calibration alone: thirty would leave nothing to fit.
From the same probabilities, MAPIE 1.6 gives the same sets (score `lac`); it is not used, for it ends with an error
where the labels are too few for the error rate, and wants a scikit-learn classifier.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from layergraft.errors import UserError

Probabilities = npt.NDArray[np.float64]
"""Of shape (N, C)."""


def check_error(error: float) -> None:
    """Refuse what is no error rate.

    Raises:
        UserError: it is not between 0 and 1.
    """
    if not 0 < error < 1:
        raise UserError(f"--error is {error}.", "It is a share above 0 and below 1, for instance 0.1.")


def set_threshold(right: npt.NDArray[np.float64], error: float) -> float:
    """The probability from which on a class belongs to a set.

    Args:
        right: out-of-fold probability of the right class of each labelled row, of shape (N,).
        error: share of sets that may miss the right class.

    Returns:
        The smallest but k of `right`, where k = floor((N + 1) error) - 1; 0, so that every class belongs to every set,
        where N is too small to promise anything.
    """
    count = math.floor((len(right) + 1) * error + 1e-9)
    return float(np.sort(right)[count - 1]) if count >= 1 else 0.0


def sets(probabilities: Probabilities, threshold: float) -> npt.NDArray[np.bool_]:
    """Which classes belong to the set of each row, of shape (N, C); a set may be empty."""
    return probabilities >= threshold
