"""The protocols that fit a linear classifier to few labelled rows, and how each fits a path of penalties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layergraft.evaluation import logistic, prototype, ridge

LinearClassifier = tuple[Tensor, Tensor]
"""(W of shape (D, C), b of shape (C,)): logits are x @ W + b."""
_LOGITS = 2**24  # numbers that are held at once


def _logistic_path(
    features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]
) -> list[LinearClassifier]:
    """Logistic regression, whose logits need no bias."""
    path = logistic.fit_path(features, labels, classes, strengths)
    return [(weights, weights.new_zeros(classes)) for weights in path]


@dataclass(frozen=True, kw_only=True)
class FewShotProtocol:
    """A way to fit a linear classifier, and the penalties that it is fitted with.

    Args:
        strengths: lambda * n that are chosen from on held-out images, from strong to weak.
        cv_strengths: likewise of the variant `cv`.
        fixed: lambda * n where nothing is chosen: that of the literature, where it has one.
        solve_path: fits classifiers for several penalties, from strong to weak, to rows that are not all alike.
    """

    strengths: tuple[float, ...]
    cv_strengths: tuple[float, ...]
    fixed: float
    solve_path: Callable[[Tensor, Tensor, int, Sequence[float]], list[LinearClassifier]]

    def fit_path(
        self, features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]
    ) -> list[LinearClassifier]:
        """Fit classifiers for several penalties.

        Rows that are all alike say nothing: then every protocol predicts by the classes' shares. Left to the solvers,
        rounding errors would decide.

        Args:
            features: of shape (N, D).
            labels: of shape (N,), below `classes`.
            classes: number of classes, C.
            strengths: lambda * n, from strong to weak.
        """
        if bool((features == features[0]).all()):
            shares = torch.bincount(labels, minlength=classes).to(features.dtype) / len(labels)
            return [(features.new_zeros(features.shape[1], classes), shares)] * len(strengths)
        return self.solve_path(features, labels, classes, strengths)


_RIDGE = tuple(10.0 ** (e / 2) for e in range(5, -7, -1))
FEW_SHOT = {
    "logistic": FewShotProtocol(
        strengths=tuple(2.5 * 10.0**e for e in range(2, -7, -1)),
        cv_strengths=tuple(2.5 * 10.0**e for e in range(0, -7, -1)),
        fixed=logistic.PUBLISHED_LAMBDA_N,
        solve_path=_logistic_path,
    ),
    "ridge": FewShotProtocol(strengths=_RIDGE, cv_strengths=_RIDGE, fixed=1.0, solve_path=ridge.fit_path),
    "prototype": FewShotProtocol(
        strengths=(0.0,),
        cv_strengths=(0.0,),
        fixed=0.0,
        solve_path=lambda features, labels, classes, strengths: [prototype.fit(features, labels, classes)],
    ),
}


def exact(features: Tensor) -> Tensor:
    """Rows to fit or to classify, (N, D): in float64 unless they are so many that it would cost minutes."""
    return features.double() if features.numel() <= 2**24 else features


def predict(classifiers: Sequence[LinearClassifier], features: Tensor) -> Tensor:
    """Class of each row (N, D) by each of K classifiers, of shape (K, N): one pass over the features for all."""
    weights = torch.cat([weights for weights, _ in classifiers], 1).to(features.dtype)  # (D, K C)
    bias = torch.cat([bias for _, bias in classifiers]).to(features.dtype)  # (K C,)
    rows = max(1, _LOGITS // len(bias))
    classes = [
        torch.addmm(bias, part, weights).view(len(part), len(classifiers), -1).argmax(2)
        for part in torch.split(features, rows)
    ]
    return torch.cat(classes).T
