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
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
# Numbers in the inverses of all classes' blocks up to which they cost less than the products they save: at 50 shots of
# ten classes in 128 dimensions a fit takes 0.03 s with them and 0.10 s without, in 500 dimensions 0.28 s and 0.12 s.
_FEW_NUMBERS = 2**18
_CLASS_ROWS = 64  # M at most: rows of its own that a class remembers
_TRIALS = 12  # of a factor, each with ten times as much on the diagonal
# Of the trace of X^T X / N. Between 0.01 and 0.2 it makes little difference: the few large directions are what counts.
_DAMPING = 0.05


class Preconditioner(ABC):
    """Made once for a problem, then brought to each point where steps are computed.

    Args:
        x: features X of shape (N, D).
        y: class of each row, of shape (N,).
        classes: number of classes, C.
        weight_decay: lambda.
        inverse: of X^T X / N, damped, of shape (D, D); see `damped_inverse`.
    """

    stale: int
    """Products of a step from which on it pays to bring it to the new point."""

    def __init__(self, x: Tensor, y: Tensor, classes: int, weight_decay: float, inverse: Tensor) -> None:
        self.x = x
        self.y = y
        self.classes = classes
        self.weight_decay = weight_decay
        self.inverse = inverse

    @abstractmethod
    def at(self, probabilities: Tensor) -> Apply:
        """About the inverse of the Hessian where the rows have these probabilities (N, C): (D, C) -> (D, C)."""


def between_classes(apply: Apply) -> Apply:
    """Restrict to steps that sum to 0 over the classes.

    The loss does not see what is added to all classes alike: there the blocks alone would be far from the Hessian.
    """

    def restricted(residual: Tensor) -> Tensor:
        step = apply(residual - residual.mean(1, keepdim=True))
        return step - step.mean(1, keepdim=True)

    return restricted


def factor(matrices: Tensor) -> Tensor:
    """Cholesky factors of positive semi-definite matrices (..., D, D).

    Rounding, or features that are all alike, leave some singular: then more is added to the diagonal, which is as good
    for a preconditioner.
    """
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if not failed.any():
        return factors
    scale = matrices.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=0)
    more = torch.where(scale > 0, torch.finfo(matrices.dtype).eps * scale, 1.0)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for _ in range(_TRIALS):
        factors, failed = torch.linalg.cholesky_ex(matrices + more[..., None, None] * identity)
        if not failed.any():
            break
        more = 10 * more
    return factors


def damped_inverse(x: Tensor) -> Tensor:
    """(X^T X / N + damping)^-1, of shape (D, D), for rows X (N, D)."""
    gram = x.T @ x / len(x)
    gram.diagonal().add_(_DAMPING * float(gram.trace()))
    return torch.cholesky_inverse(factor(gram))


class ByClass(Preconditioner):
    """Case (A): the inverse of the block of each class, X^T diag(p (1 - p)) X / N + lambda."""

    stale = 12

    def at(self, probabilities: Tensor) -> Apply:
        uncertainty = probabilities * (1 - probabilities)  # (N, C)
        width, weighted = self.x.shape[1], torch.empty_like(self.x)  # one for all: new memory costs more than products
        blocks = self.x.new_empty(self.classes, width, width)  # H_cc of every class
        for weights, block in zip(uncertainty.unbind(1), blocks, strict=True):
            torch.mm(torch.mul(self.x, weights[:, None], out=weighted).T, self.x, out=block)
        blocks.div_(len(self.x)).diagonal(dim1=1, dim2=2).add_(self.weight_decay)
        inverse = torch.cholesky_inverse(factor(blocks))
        return between_classes(lambda residual: torch.einsum("cde,ec->dc", inverse, residual))


class ByOwnRows(Preconditioner):
    """Case (B): for each class w S and its own rows (of many the first M), by Woodbury's identity."""

    stale = 0

    def __init__(self, x: Tensor, y: Tensor, classes: int, weight_decay: float, inverse: Tensor) -> None:
        super().__init__(x, y, classes, weight_decay, inverse)
        counts = torch.bincount(y, minlength=classes)
        order = torch.arange(min(int(counts.max()), _CLASS_ROWS), device=y.device)
        self.is_row = order < counts[:, None]  # (C, M): a class of fewer rows is filled up with zeros
        first = (counts.cumsum(0) - counts)[:, None]
        self.rows = torch.argsort(y, stable=True)[(first + order).clamp(max=len(y) - 1)]  # (C, M)
        self.class_rows = x[self.rows] * self.is_row[..., None]  # Z, (C, M, D)
        self.solved = self.class_rows @ inverse  # Z S^-1, (C, M, D)
        self.kernel = self.solved @ self.class_rows.mT  # Z S^-1 Z^T, (C, M, M)

    def at(self, probabilities: Tensor) -> Apply:
        # What rows give to classes that are not theirs: u of each row (N,), w of each class (C,).
        others = probabilities.scatter(1, self.y[:, None], 0.0)
        uncertain, weights = others.sum(1), others.sum(0) / len(self.x)
        weights = weights.clamp(min=0.1 * float(weights.mean()) + 1e-30)
        curvature = (uncertain * (1 - uncertain))[self.rows].clamp(min=1e-20) / len(self.x)  # K, (C, M)
        inner = self.kernel / weights[:, None, None] + torch.diag_embed(torch.where(self.is_row, 1 / curvature, 1.0))
        factors = factor(inner)  # of K^-1 + Z S^-1 Z^T / w, (C, M, M)

        def apply(residual: Tensor) -> Tensor:
            step = self.inverse @ residual / weights  # S^-1 r / w, (D, C)
            part = torch.einsum("cmd,dc->cm", self.class_rows, step)
            part = torch.cholesky_solve(part[..., None], factors)[..., 0] / weights[:, None]
            return step - torch.einsum("cmd,cm->dc", self.solved, part)

        return between_classes(apply)


def preconditioner(x: Tensor, y: Tensor, classes: int, weight_decay: float, inverse: Tensor) -> Preconditioner:
    """The one that suits the shape of the problem; arguments as for `Preconditioner`."""
    blocks = classes * x.shape[1] ** 2 <= _FEW_NUMBERS
    return (ByClass if blocks else ByOwnRows)(x, y, classes, weight_decay, inverse)
