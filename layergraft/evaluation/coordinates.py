"""In which coordinates a linear classifier is fitted to N rows of D features, X (N, D), and C classes.

A point V (C, K) has logits V R^T (C, N), and derivatives E (C, N) of a function of the logits have a gradient:

* `ByFeatures`: V = W^T are the weights themselves, R = X, and the gradient is E X.
* `ByRows`, for fewer rows than features: the optimum lies in the span of the rows, W = X^T V^T, and a fit needs nothing
  but the products of rows, R = X X^T. The inner product of points U and V is sum(U * V R), for which the gradient is E
  itself: half the work of a step, and no basis of the span is computed.

  Where rows depend on each other, as of images that occur twice, V is not determined and W a difference of large
  numbers: `ByBasis` has the weights in a basis of the span, R^T = Q^T X^T.

A point is held as a pair of shape (1, C, K) or (2, C, K): first V, last what an inner product with V multiplies, V
itself or V R. Both are linear in V, so that sums of points are sums of pairs.

Classes come first: BLAS multiplies 10 × N by N × D two to five times as fast as N × D by D × 10.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
"""About the inverse of a Hessian: gradient (C, K) -> pair (1 or 2, C, K)."""
_TRIALS = 12  # of a factor, each with ten times as much on the diagonal
# Of the trace of X^T X / N. Between 0.01 and 0.2 it makes little difference: the few large directions are what counts.
_DAMPING = 0.05
_INDEPENDENT = 1e-8  # of a row's square length, what the rows before it must leave unexplained


def factor(matrices: Tensor) -> Tensor:
    """Cholesky factors of positive semi-definite matrices (..., K, K).

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


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses of symmetric matrices (..., K, K), whose rows lie in one piece."""
    return torch.cholesky_inverse(factor(matrices)).mT


class OwnRows(ABC):
    """M rows Z of each class; S is as in `Coordinates`.

    Args:
        kernel: Z S^-1 Z^T of shape (C, M, M).
    """

    def __init__(self, kernel: Tensor) -> None:
        self.kernel = kernel

    @abstractmethod
    def logits(self, pair: Tensor) -> Tensor:
        """Of each class's rows for that class: Z v_c, of shape (C, M)."""

    @abstractmethod
    def solve(self, errors: Tensor) -> Tensor:
        """The pair of S^-1 Z^T e_c, for errors e (C, M)."""


class Coordinates(ABC):
    """Coordinates of a fit to N rows.

    Args:
        rows: R of shape (N, K).
        covariance: X^T X / N in these coordinates, of shape (K, K); it is damped in place.
    """

    def __init__(self, rows: Tensor, covariance: Tensor) -> None:
        self.rows = rows
        self.damping = _DAMPING * float(covariance.trace())
        covariance.diagonal().add_(self.damping)
        self.inverse = _inverse(covariance)
        """Of S = X^T X / N + damping: symmetric, of shape (K, K)."""

    @abstractmethod
    def pair(self, point: Tensor) -> Tensor:
        """Of V of shape (C, K)."""

    @abstractmethod
    def logits(self, pair: Tensor, block: slice) -> Tensor:
        """Of a block of n rows: (C, n)."""

    @abstractmethod
    def add_gradient(self, gradient: Tensor, errors: Tensor, block: slice) -> None:
        """Add to a gradient (C, K) what derivatives (C, n) of a block's logits give."""

    @abstractmethod
    def solve(self, gradient: Tensor) -> Tensor:
        """The pair of S^-1 times a gradient (C, K)."""

    @abstractmethod
    def own_rows(self, rows: Tensor, is_row: Tensor) -> OwnRows:
        """Choose M rows for each class.

        Args:
            rows: which, of shape (C, M).
            is_row: whether it is one, of shape (C, M).
        """

    @abstractmethod
    def block_inverse(self, uncertainty: Tensor, weight_decay: float) -> Apply:
        """The inverse of X^T diag(u_c) X / N + lambda, for each class its own; see `Apply`.

        Args:
            uncertainty: u >= 0, of shape (C, N).
            weight_decay: lambda.
        """

    @abstractmethod
    def weights(self, pair: Tensor) -> Tensor:
        """W of shape (D, C)."""


class ByFeatures(Coordinates):
    """Weights themselves: K = D.

    Args:
        features: X of shape (N, D).
    """

    def __init__(self, features: Tensor) -> None:
        self.rough = features.float()
        """X for what is solved about, twice as fast as in float64."""
        super().__init__(features, self.rough.T @ self.rough / len(features))

    def pair(self, point: Tensor) -> Tensor:
        return point[None]

    def logits(self, pair: Tensor, block: slice) -> Tensor:
        return pair[0] @ self._in(pair.dtype)[block].T

    def add_gradient(self, gradient: Tensor, errors: Tensor, block: slice) -> None:
        gradient.addmm_(errors, self._in(gradient.dtype)[block])

    def _in(self, precision: torch.dtype) -> Tensor:
        return self.rows if precision == self.rows.dtype else self.rough

    def solve(self, gradient: Tensor) -> Tensor:
        return (gradient @ self.inverse)[None]

    def own_rows(self, rows: Tensor, is_row: Tensor) -> OwnRows:
        features = self.rough[rows] * is_row[..., None]
        return _OwnFeatures(features, features @ self.inverse)

    def block_inverse(self, uncertainty: Tensor, weight_decay: float) -> Apply:
        (count, width), classes = self.rows.shape, len(uncertainty)
        weighted = torch.empty_like(self.rough)  # one for all: new memory costs more than products
        blocks = self.rough.new_empty(classes, width, width)
        for of_class, block in zip(uncertainty, blocks, strict=True):
            torch.mm(torch.mul(self.rough, of_class[:, None], out=weighted).T, self.rough, out=block)
        blocks.div_(count).diagonal(dim1=1, dim2=2).add_(weight_decay)
        inverse = _inverse(blocks)
        return lambda gradient: torch.bmm(inverse, gradient[..., None])[None, ..., 0]

    def weights(self, pair: Tensor) -> Tensor:
        return pair[0].T.contiguous()


class ByBasis(ByFeatures):
    """Weights in an orthonormal basis of the rows' span: K = N.

    Args:
        features: X of shape (N, D).
    """

    def __init__(self, features: Tensor) -> None:
        self.basis, triangle = torch.linalg.qr(features.T)
        super().__init__(triangle.T.contiguous())

    def weights(self, pair: Tensor) -> Tensor:
        weights: Tensor = self.basis @ super().weights(pair)
        return weights


class ByRows(Coordinates):
    """Weights of the rows: K = N. In float64, as their products need it.

    Args:
        features: X of shape (N, D), whose rows are `independent`.
        products: X X^T in float64, of shape (N, N).
    """

    def __init__(self, features: Tensor, products: Tensor) -> None:
        self.features = features
        super().__init__(products, products / len(features))

    def pair(self, point: Tensor) -> Tensor:
        return torch.stack([point, point @ self.rows])

    def logits(self, pair: Tensor, block: slice) -> Tensor:
        return pair[1, :, block]

    def add_gradient(self, gradient: Tensor, errors: Tensor, block: slice) -> None:
        gradient[:, block] += errors

    def solve(self, gradient: Tensor) -> Tensor:
        solved = gradient @ self.inverse
        # (R / N + damping) solved = gradient, so R times it takes no product.
        return torch.stack([solved, (gradient - self.damping * solved).mul_(len(self.rows))])

    def own_rows(self, rows: Tensor, is_row: Tensor) -> OwnRows:
        return _OwnProducts(self, rows, is_row)

    def block_inverse(self, uncertainty: Tensor, weight_decay: float) -> Apply:
        # (lambda + diag(u) R / N)^-1 = (1 - s (lambda + s R s)^-1 s R) / lambda with s = sqrt(u / N).
        root = (uncertainty / len(self.rows)).sqrt()
        blocks = root[:, :, None] * self.rows * root[:, None, :]
        blocks.diagonal(dim1=1, dim2=2).add_(weight_decay)
        inverse = _inverse(blocks)

        def apply(gradient: Tensor) -> Tensor:
            inner = torch.bmm(inverse, (root * (gradient @ self.rows))[..., None])[..., 0]
            return self.pair((gradient - root * inner) / weight_decay)

        return apply

    def weights(self, pair: Tensor) -> Tensor:
        # Large numbers of rows that are nearly alike cancel: not in float32.
        weights: Tensor = self.features.double().T @ pair[0].T
        return weights.to(self.features.dtype)


def independent(products: Tensor) -> bool:
    """Whether no row is a combination of those before it, from their products (N, N)."""
    triangle, failed = torch.linalg.cholesky_ex(products)
    return not failed and bool((triangle.diagonal().square() > _INDEPENDENT * products.diagonal()).all())


def coordinates_of(features: Tensor) -> Coordinates:
    """Those in which a fit to rows X (N, D) costs least, and is exact."""
    if len(features) >= features.shape[1]:
        return ByFeatures(features)
    exact = features.double()
    products = exact @ exact.T
    return ByRows(features, products) if independent(products) else ByBasis(features)


class _OwnFeatures(OwnRows):
    """By features.

    Args:
        features: Z of shape (C, M, D).
        solved: Z S^-1 of shape (C, M, D).
    """

    def __init__(self, features: Tensor, solved: Tensor) -> None:
        super().__init__(solved @ features.mT)
        self.features = features
        self.solved = solved

    def logits(self, pair: Tensor) -> Tensor:
        return torch.bmm(self.features, pair[0, ..., None])[..., 0]

    def solve(self, errors: Tensor) -> Tensor:
        return torch.bmm(errors[:, None], self.solved).mT[None, ..., 0]


class _OwnProducts(OwnRows):
    """By rows, of whose products all are known.

    Args:
        coordinates: of all rows.
        rows: which, of shape (C, M).
        is_row: whether it is one, of shape (C, M).
    """

    def __init__(self, coordinates: ByRows, rows: Tensor, is_row: Tensor) -> None:
        count = len(coordinates.rows)
        # R S^-1 = N (1 - damping S^-1), as in `solve`.
        kernel = coordinates.inverse[rows[:, :, None], rows[:, None, :]] * (-count * coordinates.damping)
        kernel.diagonal(dim1=1, dim2=2).add_(count)
        super().__init__(kernel * (is_row[:, :, None] & is_row[:, None, :]))
        self.coordinates, self.rows, self.is_row = coordinates, rows, is_row

    def logits(self, pair: Tensor) -> Tensor:
        return pair[1].gather(1, self.rows) * self.is_row

    def solve(self, errors: Tensor) -> Tensor:
        of_rows = errors.new_zeros(len(errors), len(self.coordinates.rows))
        return self.coordinates.solve(of_rows.scatter_add_(1, self.rows, errors * self.is_row))
