"""The protocols that fit a linear classifier to few labelled rows, and how each fits a path of penalties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layergraft.evaluation import logistic, prototype, ridge

Classifier = tuple[Tensor, Tensor]
"""(W of shape (D, C), b of shape (C,))."""
_LOGITS = 2**24  # numbers that are held at once


def _logistic_path(features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]) -> list[Classifier]:
    """Each optimum is the start of the next, weaker penalty."""
    fits: list[Classifier] = []
    weights = None
    for strength in strengths:
        weights = logistic.fit(features, labels, classes, strength, start=weights)
        fits.append((weights, weights.new_zeros(classes)))
    return fits


@dataclass(frozen=True, kw_only=True)
class FewShotProtocol:
    """A protocol that fits a linear classifier for each of several penalties.

    Args:
        strengths: lambda * n that are chosen from on held-out images, from strong to weak.
        cv_strengths: likewise of the variant `cv`.
        fixed: lambda * n where nothing is chosen: that of the literature, where it has one.
        fit_path: classifiers for several penalties, from strong to weak.
    """

    strengths: tuple[float, ...]
    cv_strengths: tuple[float, ...]
    fixed: float
    fit_path: Callable[[Tensor, Tensor, int, Sequence[float]], list[Classifier]]


_RIDGE = tuple(10.0 ** (e / 2) for e in range(5, -7, -1))
FEW_SHOT = {
    "logistic": FewShotProtocol(
        strengths=tuple(2.5 * 10.0**e for e in range(2, -7, -1)),
        cv_strengths=tuple(2.5 * 10.0**e for e in range(0, -7, -1)),
        fixed=logistic.PUBLISHED_LAMBDA_N,
        fit_path=_logistic_path,
    ),
    "ridge": FewShotProtocol(strengths=_RIDGE, cv_strengths=_RIDGE, fixed=1.0, fit_path=ridge.fit_path),
    "prototype": FewShotProtocol(
        strengths=(0.0,),
        cv_strengths=(0.0,),
        fixed=0.0,
        fit_path=lambda features, labels, classes, strengths: [prototype.fit(features, labels, classes)],
    ),
}


def exact(features: Tensor) -> Tensor:
    """Rows to fit or to classify: in float64 unless they are so many that it would cost minutes."""
    return features.double() if features.numel() <= 2**24 else features


def predict(classifiers: Sequence[Classifier], features: Tensor) -> Tensor:
    """Class of each row by each classifier, of shape (classifiers, N): one pass over the features for all of them."""
    weights = torch.cat([weights for weights, _ in classifiers], 1).to(features.dtype)
    bias = torch.cat([bias for _, bias in classifiers]).to(features.dtype)
    rows = max(1, _LOGITS // len(bias))
    found = [
        torch.addmm(bias, part, weights).view(len(part), len(classifiers), -1).argmax(2)
        for part in torch.split(features, rows)
    ]
    return torch.cat(found).T
