"""Multinomial logistic regression without intercept, solved to optimality.

Objective: mean cross-entropy + lambda/2 * ||W||^2. Newton's method with conjugate gradients on Hessian-vector products:
strictly convex, so what it converges to does not depend on how it got there. Two changes of coordinates make it quick:
with fewer rows than features the problem is solved in the span of the rows, where the optimum lies; and the features
are rotated to their principal axes, where the Hessian's diagonal preconditions it well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Labels = npt.NDArray[np.int64]
PUBLISHED_LAMBDA_N = 2.5e-4
CV_LAMBDA_N = tuple(2.5 * 10.0**e for e in range(-6, 1))


def principal_axes(features: Tensor) -> Tensor:
    """An orthonormal basis (D, min(N, D)) of the span of the rows, by falling variance."""
    n, width = features.shape
    if width <= n:
        basis: Tensor = torch.linalg.eigh(features.T @ features).eigenvectors.flip(1)
        return basis
    axes: Tensor = torch.linalg.svd(features, full_matrices=False).Vh.T
    return axes


def objective(weights: Tensor, features: Tensor, labels: Tensor, weight_decay: float) -> Tensor:
    """Mean cross-entropy + weight_decay/2 * ||W||^2, a scalar."""
    cross_entropy = torch.nn.functional.cross_entropy(features @ weights, labels)
    return cross_entropy + 0.5 * weight_decay * weights.square().sum()


def solve(features: Tensor, labels: Tensor, start: Tensor, weight_decay: float, tolerance: float) -> Tensor:
    """The optimal weights.

    Args:
        features: of shape (N, D), best in `principal_axes`.
        labels: of shape (N,), below C.
        start: weights to start from, of shape (D, C).
        weight_decay: lambda.
        tolerance: norm of the gradient at which it stops, relative to the one at zero.

    Returns:
        W of shape (D, C).
    """
    n, classes = len(features), start.shape[1]
    target = torch.nn.functional.one_hot(labels, classes).to(features.dtype)
    transposed, squares = features.T.contiguous(), features.square().T.contiguous()
    w = start.clone()
    unit = float((transposed @ (1 / classes - target)).norm()) / n
    value = float(objective(w, features, labels, weight_decay))
    for _ in range(100):
        p = torch.softmax(features @ w, 1)
        gradient = transposed @ (p - target) / n + weight_decay * w
        size = float(gradient.norm()) / unit
        if size <= tolerance:
            break
        diagonal = squares @ (p * (1 - p)) / n + weight_decay

        def curvature(v: Tensor, p: Tensor = p) -> Tensor:
            change = features @ v
            change = p * (change - (p * change).sum(1, keepdim=True))
            return transposed @ change / n + weight_decay * v

        step = _conjugate_gradients(curvature, -gradient, diagonal, min(0.1, size**0.5))
        slope, scale = float((gradient * step).sum()), 1.0
        while scale > 1e-8:
            trial = float(objective(w + scale * step, features, labels, weight_decay))
            if trial <= value + 1e-4 * scale * slope:
                break
            scale *= 0.5
        else:
            break  # no further decrease within the precision of the numbers
        w, value = w + scale * step, trial
    return w


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, diagonal: Tensor, tolerance: float
) -> Tensor:
    x, r = torch.zeros_like(target), target.clone()
    z = r / diagonal
    d, rz = z.clone(), float((r * z).sum())
    goal = float(r.norm()) * tolerance
    for _ in range(200):
        hd = product(d)
        alpha = rz / float((d * hd).sum())
        x += alpha * d
        r -= alpha * hd
        if float(r.norm()) <= goal:
            break
        z = r / diagonal
        new = float((r * z).sum())
        d, rz = z + (new / rz) * d, new
    return x


def fit(features: Tensor, labels: Tensor, classes: int, lambda_n: float, tolerance: float = 1e-6) -> Tensor:
    """Optimal weights for lambda = lambda_n / N, by way of stronger penalties: each start is near its optimum.

    Args:
        features: of shape (N, D).
        labels: of shape (N,), below `classes`.
        classes: number of classes.
        lambda_n: lambda times N.
        tolerance: as for `solve`.

    Returns:
        W of shape (D, C).
    """
    basis = principal_axes(features)
    rotated = features @ basis
    w = features.new_zeros(basis.shape[1], classes)
    for strength in [lambda_n * 10.0**e for e in (4, 3, 2, 1) if lambda_n * 10.0**e < 10]:
        w = solve(rotated, labels, w, strength / len(rotated), 1e-2)
    return basis @ solve(rotated, labels, w, lambda_n / len(rotated), tolerance)


def accuracy(weights: Tensor, features: Tensor, labels: Labels) -> float:
    """Top-1 in percent."""
    return 100 * float(((features @ weights).argmax(1).numpy() == labels).mean())


def choose_lambda(features: Tensor, labels: Labels, classes: int) -> float | None:
    """lambda * n by stratified folds over the shots themselves: 5 from 5 shots on, leave one per class out for 2 to 4.

    Returns:
        The strongest of the best, or None at 1 shot, where there is nothing to leave out.
    """
    folds = min(5, int(np.bincount(labels, minlength=classes).min()))
    if folds < 2:
        return None
    fold = np.empty(len(labels), dtype=np.int64)
    for c in range(classes):
        own = np.flatnonzero(labels == c)
        fold[own] = np.arange(len(own)) % folds
    targets = torch.from_numpy(labels)
    scores = []
    for strength in CV_LAMBDA_N:
        hits = 0.0
        for held in range(folds):
            out = torch.from_numpy(fold == held)
            weights = fit(features[~out], targets[~out], classes, strength, tolerance=1e-4)
            hits += accuracy(weights, features[out], labels[fold == held]) * int(out.sum())
        scores.append(hits)
    best = max(scores)
    return max(s for s, score in zip(CV_LAMBDA_N, scores, strict=True) if score == best)
