"""Probabilities that mean what they say: one temperature, and how far confidence and accuracy lie apart.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_LOG_RANGE = (math.log(1e-3), math.log(1e3))
_GOLDEN, _NEAR = (1 + math.sqrt(5)) / 2, 1e-5
BINS = 15
USUAL, SPREAD = 2.0, 0.3
"""Temperature that is expected before a label is seen, and the standard deviation of its logarithm: thirty labels alone
leave it uncertain. Chosen on digits, raw pixels and images that the encoder held out or never saw."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature at which softmax(logits / T), with what is expected of T, makes the labels likeliest.

    The cross-entropy of all rows + (ln T - ln USUAL)^2 / (2 SPREAD^2) is least; with many labels the second part is
    nothing.

    Args:
        logits: of rows that the classifier was not fitted to, of shape (N, C); of no row, the answer is `USUAL`.
        labels: their classes, of shape (N,).
    """

    def badness(log_temperature: float) -> float:
        likely = cross_entropies(logits, labels, math.exp(log_temperature)).sum()
        return float(likely) + (log_temperature - math.log(USUAL)) ** 2 / (2 * SPREAD**2)

    return math.exp(_lowest(badness, *_LOG_RANGE))


def _lowest(badness: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is least: golden sections (Kiefer, Proc. Amer. Math. Soc. 1953)."""
    inner = [high - (high - low) / _GOLDEN, low + (high - low) / _GOLDEN]
    values = [badness(place) for place in inner]
    while high - low > _NEAR:
        if values[0] <= values[1]:
            high = inner[1]
            inner = [high - (high - low) / _GOLDEN, inner[0]]
            values = [badness(inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + (high - low) / _GOLDEN]
            values = [values[1], badness(inner[1])]
    return (low + high) / 2


def cross_entropies(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-ln of the probability of the right class of each row, of shape (N,).

    Args:
        logits: of shape (N, C).
        labels: of shape (N,).
        temperature: the logits are divided by it.
    """
    return torch.nn.functional.cross_entropy(logits / temperature, labels, reduction="none")


def calibration_error(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Give the expected calibration error (Guo et al. 2017, section 2): |accuracy - confidence|, averaged over bins.

    Args:
        confidence: probability of the predicted class, of shape (N,).
        correct: whether it is the right one, of shape (N,).
        bins: of equal width from 0 to 1.
    """
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(number, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
