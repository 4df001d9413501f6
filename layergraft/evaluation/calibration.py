"""Probabilities that mean what they say: one temperature, and how far confidence and accuracy lie apart.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

_LOG_RANGE = (math.log(1e-3), math.log(1e3))
BINS = 15


def fit_temperature(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Find the temperature at which softmax(logits / T) makes the labels likeliest.

    Args:
        logits: of rows that the classifier was not fitted to, of shape (N, C).
        labels: their classes, of shape (N,).

    Returns:
        (temperature, mean cross-entropy at it).
    """

    def cross_entropy(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    found = minimize_scalar(cross_entropy, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-3})
    return math.exp(float(found.x)), float(found.fun)


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
