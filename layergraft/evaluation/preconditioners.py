"""About the inverse of the Hessian of multinomial logistic regression, for conjugate gradients.

N rows of D features and C classes: features X (N, D), weights W (D, C), probabilities P (N, C), one-hot targets Y.
The objective's gradient is X^T (P - Y) / N + lambda W, so its Hessian has C x C blocks of D x D:

    H_cd = X^T diag(p_c (1[c = d] - p_d)) X / N + 1[c = d] lambda I

(A) Few classes: the diagonal blocks alone, H_cc = X^T diag(p_c (1 - p_c)) X / N + lambda I, each inverted exactly. That
    costs C (N D^2 + D^3) at each point: `ByClass`.

(B) Many classes: one inverse for all of them. A row x of class y, uncertain by u = 1 - p_y and with its other
    probabilities shared out as q = p / u, adds

        x x^T kron [u (1 - u) (e_y - q)(e_y - q)^T + u (diag(q) - q q^T)]

    one strong direction in its own class, and weak ones that spread over all others. So H_cc is what the rows of other
    classes add, alike for all c but for its size w_c, and what the M rows Z of class c add themselves, of low rank:

        H_cc = w_c S + Z^T K Z,   S = X^T X / N, damped,   K = diag(u (1 - u)) / N

    By Woodbury's identity its inverse needs S^-1, made once, and M x M matrices at each point: `ByOwnRows`.

        H_cc^-1 = S^-1 / w - S^-1 Z^T (K^-1 + Z S^-1 Z^T / w)^-1 Z S^-1 / w^2

Both hold in any `Coordinates`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from layergraft.evaluation.coordinates import Apply, Coordinates, factor

# Numbers in the inverses of all classes' blocks up to which they cost less than the products they save: at 50 shots of
# ten classes in 128 dimensions a fit takes 0.03 s with them and 0.10 s without, in 500 dimensions 0.28 s and 0.12 s.
_FEW_NUMBERS = 2**18
_CLASS_ROWS = 64  # M at most: rows of its own that a class remembers


class Preconditioner(ABC):
    """Made once for a problem, then brought to each point where steps are computed.

    Args:
        coordinates: of the points, of K numbers a class.
        labels: class of each row, of shape (N,).
        classes: number of classes, C.
        weight_decay: lambda.
    """

    stale: int
    """Products of a step from which on it pays to bring it to the new point."""

    def __init__(self, coordinates: Coordinates, labels: Tensor, classes: int, weight_decay: float) -> None:
        self.coordinates = coordinates
        self.labels = labels
        self.classes = classes
        self.weight_decay = weight_decay

    @abstractmethod
    def at(self, probabilities: Tensor) -> Apply:
        """Where the rows have these probabilities (C, N)."""


def between_classes(apply: Apply) -> Apply:
    """Restrict to steps that sum to 0 over the classes.

    The loss does not see what is added to all classes alike: there the blocks alone would be far from the Hessian.
    """

    def restricted(residual: Tensor) -> Tensor:
        step = apply(residual - residual.mean(0))
        return step - step.mean(1, keepdim=True)

    return restricted


class ByClass(Preconditioner):
    """Case (A): the inverse of the block of each class, X^T diag(p (1 - p)) X / N + lambda."""

    stale = 12

    def at(self, probabilities: Tensor) -> Apply:
        uncertainty = probabilities * (1 - probabilities)
        return between_classes(self.coordinates.block_inverse(uncertainty, self.weight_decay))


class ByOwnRows(Preconditioner):
    """Case (B): for each class w S and its own rows (of many the first M), by Woodbury's identity."""

    stale = 0

    def __init__(self, coordinates: Coordinates, labels: Tensor, classes: int, weight_decay: float) -> None:
        super().__init__(coordinates, labels, classes, weight_decay)
        counts = torch.bincount(labels, minlength=classes)
        order = torch.arange(min(int(counts.max()), _CLASS_ROWS), device=labels.device)
        self.is_row = order < counts[:, None]  # (C, M): a class of fewer rows is filled up with zeros
        first = (counts.cumsum(0) - counts)[:, None]
        self.rows = torch.argsort(labels, stable=True)[(first + order).clamp(max=len(labels) - 1)]  # (C, M)
        self.own = coordinates.own_rows(self.rows, self.is_row)

    def at(self, probabilities: Tensor) -> Apply:
        # What rows give to classes that are not theirs: u of each row (N,), w of each class (C, 1).
        others = probabilities.scatter(0, self.labels[None], 0.0)
        uncertain, weights = others.sum(0), others.sum(1, keepdim=True) / others.shape[1]
        weights = weights.clamp(min=0.1 * float(weights.mean()) + 1e-30)
        curvature = (uncertain * (1 - uncertain))[self.rows].clamp(min=1e-20) / others.shape[1]  # K, (C, M)
        inner = self.own.kernel / weights[..., None] + torch.diag_embed(torch.where(self.is_row, 1 / curvature, 1.0))
        factors = factor(inner)  # of K^-1 + Z S^-1 Z^T / w, (C, M, M)

        def apply(residual: Tensor) -> Tensor:
            step = self.coordinates.solve(residual).div_(weights)  # S^-1 r / w
            part = torch.cholesky_solve(self.own.logits(step)[..., None], factors)[..., 0]  # (C, M)
            return step.sub_(self.own.solve(part).div_(weights))

        return between_classes(apply)


def preconditioner(coordinates: Coordinates, labels: Tensor, classes: int, weight_decay: float) -> Preconditioner:
    """The one that suits the shape of the problem; arguments as for `Preconditioner`."""
    blocks = classes * coordinates.rows.shape[1] ** 2 <= _FEW_NUMBERS
    return (ByClass if blocks else ByOwnRows)(coordinates, labels, classes, weight_decay)
