"""Multinomial logistic regression without intercept, solved to optimality.

N rows of D features and C classes: features X (N, D), labels y (N,), weights W (D, C), logits Z = X W (N, C),
probabilities P = softmax(Z) (N, C), targets Y (N, C) one-hot.

    objective   mean cross-entropy + lambda/2 ||W||^2
    gradient    X^T (P - Y) / N + lambda W                                           (D, C)
    Hessian     times V: X^T (P * (XV - rowsum(P * XV))) / N + lambda V             (D, C)

It is strictly convex, so the answer does not depend on how it is found.
The penalties of the protocols are so weak that most rows end up classified with certainty; then first-order methods
crawl. Truncated Newton steps do not, with four things that make each one count:

* the start is the ridge solution, scaled to minimise the objective;
* few rows are fitted by their products (`coordinates`); all is held with the classes first, of shapes (C, ...);
* the Hessian is preconditioned class by class, from one Cholesky factor for all steps (`preconditioners`);
* the line search is exact: on logits that are known at both ends it costs no matrix product.

It stops on a proof: by strong convexity the objective is within ||gradient||^2 / (2 lambda) of the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from layergraft.evaluation.coordinates import Apply, Coordinates, coordinates_of
from layergraft.evaluation.preconditioners import preconditioner

PUBLISHED_LAMBDA_N = 2.5e-4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-7}
_STEPS, _PRODUCTS, _TRIALS = 100, 200, 12
_BLOCK = 2**19  # logits of a block of rows stay in the processor's cache


def objective(weights: Tensor, features: Tensor, labels: Tensor, weight_decay: float) -> Tensor:
    """Mean cross-entropy + weight_decay/2 * ||W||^2, a scalar."""
    cross_entropy = torch.nn.functional.cross_entropy(features @ weights, labels)
    return cross_entropy + 0.5 * weight_decay * weights.square().sum()


def _sum(numbers: Tensor) -> float:
    return float(numbers.double().sum())


class _Problem:
    """The objective on one set of rows, evaluated in blocks of rows.

    The state is a point as a pair, see `coordinates`, and its logits (C, N).
    """

    def __init__(self, coordinates: Coordinates, labels: Tensor, classes: int, weight_decay: float) -> None:
        self.coordinates = coordinates
        self.y = labels[None]
        self.weight_decay = weight_decay
        self.n = n = len(labels)
        rows = n if labels.is_cuda else max(64, _BLOCK // classes)
        self.blocks = [slice(i, min(n, i + rows)) for i in range(0, n, rows)]

    def logits(self, pair: Tensor) -> Tensor:
        return self.coordinates.logits(pair, slice(None))

    def true_class(self, logits: Tensor) -> Tensor:
        """The logit of each row's own class: (C, N) -> (1, N)."""
        return logits.gather(0, self.y)

    def value(self, pair: Tensor, logits: Tensor) -> float:
        true, total = self.true_class(logits), 0.0
        for b in self.blocks:
            # log(1 + sum of exp(z_j - z_true)): nothing cancels, so that float32 sees the last decreases.
            others = (logits[:, b] - true[:, b]).scatter_(0, self.y[:, b], -math.inf)
            total += _sum(torch.nn.functional.softplus(torch.logsumexp(others, 0)))
        return total / self.n + 0.5 * self.weight_decay * _sum(pair[0] * pair[-1])

    def gradient(self, pair: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(gradient (C, K), probabilities (C, N))."""
        gradient = pair[0] * (self.weight_decay * self.n)
        probabilities = torch.empty_like(logits)
        for b in self.blocks:
            probabilities[:, b] = p = logits[:, b].softmax(0)
            errors = p.scatter_add_(0, self.y[:, b], p.new_full((1, p.shape[1]), -1.0))
            self.coordinates.add_gradient(gradient, errors, b)
        return gradient.div_(self.n), probabilities

    def curvature(self, probabilities: Tensor, direction: Tensor) -> Tensor:
        """Hessian times a direction that is given as a pair, of shape (C, K), at probabilities (C, N)."""
        product = direction[0] * (self.weight_decay * self.n)
        for b in self.blocks:
            p = probabilities[:, b]
            change = self.coordinates.logits(direction, b)
            change = (change - torch.linalg.vecdot(p, change, dim=0)).mul_(p)
            self.coordinates.add_gradient(product, change, b)
        return product.div_(self.n)

    def advance(
        self, pair: Tensor, logits: Tensor, gradient: Tensor, step: Tensor, first: float
    ) -> tuple[Tensor, Tensor, float]:
        """(point, logits, objective) at the best point along a step; see `_search`."""
        change, slope = self.logits(step), _sum(gradient * step[-1])
        length = self._search(pair, logits, step, change, first, abs(slope))
        pair, logits = torch.add(pair, step, alpha=length), torch.add(logits, change, alpha=length)
        return pair, logits, self.value(pair, logits)

    def _search(self, pair: Tensor, logits: Tensor, step: Tensor, change: Tensor, first: float, start: float) -> float:
        """The length of a step that minimises the objective along it, by safeguarded Newton steps.

        Args:
            pair: where it starts.
            logits: of `pair`.
            step: direction of descent, as a pair.
            change: logits of `step`.
            first: the length that is tried first.
            start: how steeply the objective falls there.
        """
        n, true = self.n, _sum(self.true_class(change))
        across, square = _sum(pair[0] * step[-1]), _sum(step[0] * step[-1])

        def slope(length: float) -> tuple[float, float]:
            """First and second derivative of the objective along the step: mean and variance of `change` under P."""
            mean = second = 0.0
            for b in self.blocks:
                along = change[:, b]
                p = torch.add(logits[:, b], along, alpha=length).softmax(0)
                expected = torch.linalg.vecdot(p, along, dim=0)
                mean += _sum(expected)
                second += _sum(torch.linalg.vecdot(p.mul_(along), along, dim=0) - expected.square())
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
    coordinates: Coordinates,
    labels: Tensor,
    classes: int,
    weight_decay: float,
    tolerance: float,
    start: Tensor | None = None,
) -> Iterator[tuple[Tensor, float]]:
    """Yield (a point as a pair, objective) at the start and after every step, until the optimum is proven.

    Args:
        coordinates: of N rows, of K numbers a class.
        labels: of shape (N,), below `classes`.
        classes: number of classes, C.
        weight_decay: lambda.
        tolerance: largest proven relative distance of the objective from its optimum.
        start: the point to start from, as a pair; None scales the ridge solution.
    """
    problem = _Problem(coordinates, labels, classes, weight_decay)
    # What is added to all classes alike changes no probability, it only costs: the optimum sums to 0 over classes.
    if start is None:
        moments = _moments(coordinates, labels, classes)
        step = coordinates.solve(moments.to(coordinates.inverse.dtype)).to(moments.dtype)
        zero = torch.zeros_like(step)
        w, z, value = problem.advance(zero, problem.logits(zero), -moments, step, 10.0)
    else:
        w = start - start.mean(1, keepdim=True)
        z = problem.logits(w)
        value = problem.value(w, z)
    yield w, value
    conditioner = preconditioner(coordinates, labels, classes, weight_decay)
    precondition, products = None, 0
    # Steps are solved about, in float32 where that will do. How far they go, and when they end, is exact.
    rough = precision = coordinates.inverse.dtype
    for _ in range(_STEPS):
        # Proof: a strongly convex objective is within ||gradient||^2 / (2 lambda) of its optimum.
        gradient, p = problem.gradient(w, z)
        gap = _sum(gradient * coordinates.pair(gradient)[-1]) / (2 * weight_decay)
        if gap <= tolerance * value:  # both are 0 where there is one class
            return
        if precondition is None or products > conditioner.stale:
            precondition = conditioner.at(p.to(rough))
        # A step solves H step = -gradient, the more exactly the nearer the optimum is; then as far along it as pays.
        p = p.to(precision)
        step, products = _conjugate_gradients(
            lambda v, p=p: problem.curvature(p, v),  # type: ignore[misc]
            -gradient.to(precision),
            lambda v, apply=precondition: apply(v.to(rough)).to(v.dtype),  # type: ignore[misc]
            min(0.3, math.sqrt(gap / value)),
        )
        step = step.to(w.dtype)
        trial, logits, new = problem.advance(w, z, gradient, step, 1.0)
        if new < value:
            w, z, value = trial, logits, new
            yield w, value
        elif precision != w.dtype:
            precision = w.dtype
        else:
            return  # no further decrease within the precision of the numbers


def _moments(coordinates: Coordinates, labels: Tensor, classes: int) -> Tensor:
    """The gradient at zero, times -1: of shape (C, K)."""
    rows = coordinates.rows
    targets = torch.nn.functional.one_hot(labels, classes).T.to(rows.dtype) - 1 / classes
    moments = rows.new_zeros(classes, rows.shape[1])
    coordinates.add_gradient(moments, targets / len(labels), slice(None))
    return moments


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, precondition: Apply, accuracy: float
) -> tuple[Tensor, int]:
    """Solve H x = target.

    Args:
        product: H times a pair: (1 or 2, C, K) -> (C, K).
        target: of shape (C, K).
        precondition: about the inverse of H, as a pair: (C, K) -> (1 or 2, C, K).
        accuracy: of the solution.

    Returns:
        (about the inverse of H times `target`, as a pair; how many products that took).
    """
    r = target.clone()
    d = precondition(r)
    x, rz = torch.zeros_like(d), float((r * d[-1]).sum())
    goal = rz * accuracy**2
    products = 0
    while products < _PRODUCTS:
        hd = product(d)
        products += 1
        curvature = float((hd * d[-1]).sum())
        if curvature <= 0:
            break
        alpha = rz / curvature
        x.add_(d, alpha=alpha)
        r.sub_(hd, alpha=alpha)
        z = precondition(r)
        new = float((r * z[-1]).sum())
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
    goal: float = -math.inf,
) -> Tensor:
    """Optimal weights for lambda = lambda_n / N.

    Args:
        features: of shape (N, D), float32 or float64, on any device.
        labels: of shape (N,), below `classes`.
        classes: number of classes.
        lambda_n: lambda times N.
        tolerance: largest proven relative distance of the objective from its optimum; None is 1e-10 in float64 and
            1e-7 in float32, whose precision may end it before.
        goal: an objective that is low enough, for comparisons with solvers that end before the optimum.

    Returns:
        W of shape (D, C).
    """
    return fit_path(features, labels, classes, [lambda_n], tolerance, goal)[0]


def fit_path(
    features: Tensor,
    labels: Tensor,
    classes: int,
    lambdas_n: Sequence[float],
    tolerance: float | None = None,
    goal: float = -math.inf,
) -> list[Tensor]:
    """Optimal weights of several penalties: each optimum is the start of the next, so let them fall.

    Args:
        features: as for `fit`, like all others.
        labels: of shape (N,).
        classes: number of classes.
        lambdas_n: lambda times N of each.
        tolerance: relative.
        goal: an objective that is low enough.

    Returns:
        W of shape (D, C) for each.
    """
    tolerance = TOLERANCE[features.dtype] if tolerance is None else tolerance
    coordinates = coordinates_of(features)
    start, path = None, []
    for lambda_n in lambdas_n:
        for point, value in newton(coordinates, labels, classes, lambda_n / len(features), tolerance, start):
            start = point
            if value <= goal:
                break
        assert start is not None
        path.append(coordinates.weights(start))
    return path


def predict(weights: Tensor, features: Tensor) -> Tensor:
    """Class of each row, of shape (N,)."""
    return (features @ weights).argmax(1)
