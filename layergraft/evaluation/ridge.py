"""Ridge regression to one-hot targets, with an intercept: closed form for a whole path of penalties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fit_path(features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Minimise ||X W + b - Y||^2 + strength * ||W||^2 for every strength, from one eigendecomposition.

    Args:
        features: of shape (N, D).
        labels: of shape (N,), below `classes`.
        classes: number of classes.
        strengths: penalties, lambda times N.

    Returns:
        (W of shape (D, C), b of shape (C,)) for each strength.
    """
    targets = torch.nn.functional.one_hot(labels, classes).to(features.dtype)
    mean, share = features.mean(0), targets.mean(0)
    x, y = features - mean, targets - share
    wide = len(x) < x.shape[1]
    values, axes = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = values.clamp(min=0)
    # (X^T X + s)^-1 X^T Y = X^T (X X^T + s)^-1 Y: the smaller of the two Gram matrices is decomposed.
    inner = axes.T @ (y if wide else x.T @ y)
    outer = x.T @ axes if wide else axes
    fits = []
    for strength in strengths:
        weights = outer @ (inner / (values + strength)[:, None])
        fits.append((weights, share - mean @ weights))
    return fits
