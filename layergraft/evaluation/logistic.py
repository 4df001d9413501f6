"""Multinomial logistic regression without intercept, solved to optimality.

N rows of D features and C classes: features X (N, D), labels y (N,), weights W (D, C), logits Z = X W (N, C),
probabilities P = softmax(Z) (N, C), targets Y (N, C) one-hot.

    objective   mean cross-entropy + lambda/2 ||W||^2
    gradient    X^T (P - Y) / N + lambda W                                           (D, C)
    Hessian     times V: X^T (P * (XV - rowsum(P * XV))) / N + lambda V             (D, C)

It is strictly convex, so the answer does not depend on how it is found.
The penalties of the protocols are so weak that most rows end up classified with certainty; then first-order methods
crawl. Truncated Newton steps do not, with three things that make each one count:

* the start is the ridge solution, scaled to minimise the objective;
* the Hessian is preconditioned class by class, from one Cholesky factor for all steps (`preconditioners`);
* the line search is exact: on logits that are known at both ends it costs no matrix product.

It stops on a proof: by strong convexity the objective is within ||gradient||^2 / (2 lambda) of the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from layergraft.evaluation.preconditioners import damped_inverse, preconditioner

PUBLISHED_LAMBDA_N = 2.5e-4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-7}
_STEPS, _PRODUCTS, _TRIALS = 100, 200, 12
_FEW = 32  # classes
_BLOCK = 2**19  # logits of a block of rows stay in the processor's cache


def objective(weights: Tensor, features: Tensor, labels: Tensor, weight_decay: float) -> Tensor:
    """Mean cross-entropy + weight_decay/2 * ||W||^2, a scalar."""
    cross_entropy = torch.nn.functional.cross_entropy(features @ weights, labels)
    return cross_entropy + 0.5 * weight_decay * weights.square().sum()


def _softmax(logits: Tensor) -> Tensor:
    """Probabilities (N, C); of a few classes down the columns, ten times as fast in torch as along short rows."""
    return logits.softmax(1) if logits.shape[1] >= _FEW else logits.T.softmax(0).T


class _Problem:
    """The objective on one set of rows, evaluated in blocks of rows; the state is weights (D, C) and logits (N, C)."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int, weight_decay: float) -> None:
        self.x = features
        self.y = labels
        self.classes = classes
        self.weight_decay = weight_decay
        n = len(features)
        rows = n if features.is_cuda else max(64, _BLOCK // classes)
        self.blocks = [slice(i, min(n, i + rows)) for i in range(0, n, rows)]

    def logits(self, weights: Tensor) -> Tensor:
        return self.x @ weights

    def true_class(self, logits: Tensor) -> Tensor:
        """The logit of each row's own class: (N, C) -> (N,)."""
        return logits.gather(1, self.y[:, None])[:, 0]

    def value(self, weights: Tensor, logits: Tensor) -> float:
        true, total = self.true_class(logits), 0.0
        for b in self.blocks:
            # log(1 + sum of exp(z_j - z_true)): nothing cancels, so that float32 sees the last decreases.
            others = (logits[b] - true[b, None]).scatter_(1, self.y[b, None], -math.inf)
            total += float(torch.nn.functional.softplus(torch.logsumexp(others, 1)).double().sum())
        return total / len(self.x) + 0.5 * self.weight_decay * float(weights.double().square().sum())

    def gradient(self, weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(gradient (D, C), probabilities (N, C))."""
        gradient = weights * (self.weight_decay * len(self.x))
        probabilities = torch.empty_like(logits)
        for b in self.blocks:
            p = probabilities[b].copy_(_softmax(logits[b]))
            errors = p.scatter_add(1, self.y[b, None], p.new_full((len(p), 1), -1.0))
            gradient.addmm_(self.x[b].T, errors)
        return gradient / len(self.x), probabilities

    def curvature(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        """Hessian times a direction of shape (D, C), at probabilities (N, C)."""
        product = direction * (self.weight_decay * len(self.x))
        for b in self.blocks:
            p = probabilities[b]
            change = self.x[b] @ direction
            change -= torch.linalg.vecdot(p, change)[:, None]
            product.addmm_(self.x[b].T, change.mul_(p))
        return product / len(self.x)

    def advance(
        self, weights: Tensor, logits: Tensor, gradient: Tensor, step: Tensor, first: float
    ) -> tuple[Tensor, Tensor, float]:
        """(weights, logits, objective) at the best point along a step; see `_search`."""
        change, slope = self.logits(step), float((gradient.double() * step.double()).sum())
        length = self._search(weights, logits, step, change, first, abs(slope))
        weights, logits = weights + length * step, logits + length * change
        return weights, logits, self.value(weights, logits)

    def _search(
        self, weights: Tensor, logits: Tensor, step: Tensor, change: Tensor, first: float, start: float
    ) -> float:
        """The length of a step that minimises the objective along it, by safeguarded Newton steps.

        Args:
            weights: where it starts, of shape (D, C).
            logits: of `weights`.
            step: direction of descent, of shape (D, C).
            change: logits of `step`.
            first: the length that is tried first.
            start: how steeply the objective falls there.
        """
        n, true = len(self.x), float(self.true_class(change).double().sum())
        across, square = (float((a.double() * step.double()).sum()) for a in (weights, step))

        def slope(length: float) -> tuple[float, float]:
            """First and second derivative of the objective along the step: mean and variance of `change` under P."""
            mean = second = 0.0
            for b in self.blocks:
                p = _softmax(torch.add(logits[b], change[b], alpha=length))
                expected = torch.linalg.vecdot(p, change[b])
                mean += float(expected.double().sum())
                second += float((torch.linalg.vecdot(p.mul_(change[b]), change[b]) - expected.square()).double().sum())
            penalty = self.weight_decay * (across + length * square)
            return (mean - true) / n + penalty, second / n + self.weight_decay * square

        low, high = 0.0, math.inf
        length, before = first, math.inf
        for _ in range(_TRIALS):
            first_derivative, second_derivative = slope(length)
            if abs(first_derivative) <= 0.03 * start:
                return length
            # The minimum lies between `low`, where the objective still falls, and `high`, where it rises.
            low, high = (length, high) if first_derivative < 0 else (low, length)
            target = length - first_derivative / max(second_derivative, 1e-300)
            if high == math.inf:
                target = min(target, 4 * low) if target > low else 2 * low
            elif not low < target < high or abs(target - length) > 0.5 * before:
                target = 0.5 * (low + high)  # Newton's steps can go from end to end and shrink hardly at all
            before, length = abs(target - length), target
        return low or length  # up to `low` the objective falls


def newton(
    features: Tensor, labels: Tensor, classes: int, weight_decay: float, tolerance: float, start: Tensor | None = None
) -> Iterator[tuple[Tensor, float]]:
    """Yield (weights of shape (D, C), objective) at the start and after every step, until the optimum is proven.

    Args:
        features: of shape (N, D).
        labels: of shape (N,), below `classes`.
        classes: number of classes, C.
        weight_decay: lambda.
        tolerance: largest proven relative distance of the objective from its optimum.
        start: weights to start from, of shape (D, C); None scales the ridge solution.
    """
    problem, inverse = _Problem(features, labels, classes, weight_decay), damped_inverse(features)
    # What is added to all classes alike changes no probability, it only costs: the optimum's rows sum to 0.
    zero = features.new_zeros(features.shape[1], classes)
    w = zero if start is None else start - start.mean(1, keepdim=True)
    z = problem.logits(w)
    if start is None:
        moments = _moments(features, labels, classes)
        w, z, value = problem.advance(w, z, -moments, inverse @ moments, 10.0)
    else:
        value = problem.value(w, z)
    yield w, value
    conditioner = preconditioner(features, labels, classes, weight_decay, inverse)
    precondition, products = None, 0
    for _ in range(_STEPS):
        # Proof: a strongly convex objective is within ||gradient||^2 / (2 lambda) of its optimum.
        gradient, p = problem.gradient(w, z)
        gap = float(gradient.double().square().sum()) / (2 * weight_decay * value)
        if gap <= tolerance:
            return
        if precondition is None or products > conditioner.stale:
            precondition = conditioner.at(p)
        # A step solves H step = -gradient, the more exactly the nearer the optimum is; then as far along it as pays.
        step, products = _conjugate_gradients(
            lambda v, p=p: problem.curvature(p, v),  # type: ignore[misc]
            -gradient,
            precondition,
            min(0.3, math.sqrt(gap)),
        )
        trial, logits, new = problem.advance(w, z, gradient, step, 1.0)
        if new >= value:
            return  # no further decrease within the precision of the numbers
        w, z, value = trial, logits, new
        yield w, value


def _moments(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Features times centred one-hot targets, averaged over the rows: (D, C)."""
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return (sums - features.sum(0) / classes).T / len(features)


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, precondition: Callable[[Tensor], Tensor], accuracy: float
) -> tuple[Tensor, int]:
    """(about the inverse of `product` times `target`, how many products that took)."""
    x, r = torch.zeros_like(target), target.clone()
    z = precondition(r)
    d, rz = z.clone(), float((r * z).sum())
    goal = rz * accuracy**2
    products = 0
    while products < _PRODUCTS:
        hd = product(d)
        products += 1
        curvature = float((d * hd).sum())
        if curvature <= 0:
            break
        alpha = rz / curvature
        x.add_(d, alpha=alpha)
        r.sub_(hd, alpha=alpha)
        z = precondition(r)
        new = float((r * z).sum())
        if new <= goal:
            break
        d, rz = z.add_(d, alpha=new / rz), new
    return x, products


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    lambda_n: float,
    tolerance: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Optimal weights for lambda = lambda_n / N.

    Args:
        features: of shape (N, D), float32 or float64, on any device.
        labels: of shape (N,), below `classes`.
        classes: number of classes.
        lambda_n: lambda times N.
        tolerance: largest proven relative distance of the objective from its optimum; None is 1e-10 in float64 and
            1e-7 in float32, whose precision may end it before.
        start: weights to start from, of shape (D, C).

    Returns:
        W of shape (D, C).
    """
    tolerance = TOLERANCE[features.dtype] if tolerance is None else tolerance
    weight_decay, basis = lambda_n / len(features), None
    if len(features) < features.shape[1]:
        # The optimum lies in the span of the rows: solve in coordinates of that span.
        basis, triangle = torch.linalg.qr(features.T)
        features = triangle.T.contiguous()
        start = None if start is None else basis.T @ start
    weights = features.new_zeros(features.shape[1], classes)
    for weights, _ in newton(features, labels, classes, weight_decay, tolerance, start):  # noqa: B007 - the last
        pass
    return weights if basis is None else basis @ weights


def predict(weights: Tensor, features: Tensor) -> Tensor:
    """Class of each row, of shape (N,)."""
    return (features @ weights).argmax(1)
