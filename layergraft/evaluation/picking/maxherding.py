"""MaxHerding: the images that add most to a smooth coverage of all (Bae et al., ECCV 2024, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from layergraft.data.randomness import Randomness
from layergraft.evaluation.picking.pool import Pool

_CANDIDATES = 64  # whose gain is computed at once
_TOGETHER = 20_000  # images, up to which all are covered at once
_PART = 10_000  # images of more, drawn at random, that are covered at once


def _kernel(similarity: torch.Tensor, gamma: float) -> torch.Tensor:
    """exp(-gamma distance^2) of unit rows with these cosine similarities; it changes them in place."""
    return similarity.sub_(1).mul_(2 * gamma).exp_()


def _gains(pool: Pool, rows: torch.Tensor, targets: torch.Tensor, covered: torch.Tensor, gamma: float) -> torch.Tensor:
    """What each of some rows would add to the coverage, of shape (R,)."""
    gains = torch.empty(len(rows), dtype=torch.float64)
    for part, similarity in pool.similarities(rows, targets):
        gains[part] = _kernel(similarity, gamma).sub_(covered).clamp_(min=0).sum(1, dtype=torch.float64)
    return gains


def maxherding(pool: Pool, gamma: float = 1.0) -> Iterator[int]:
    """Pick greedily what adds most to the mean over all images of their kernel with the nearest pick.

    That takes N^2 kernels. Of more than 20,000 images, 10,000 that are drawn at random stand for all, as what covers
    and as what is covered; once none of them is free, the next 10,000.

    Args:
        pool: what is picked from.
        gamma: of the Gaussian kernel exp(-gamma distance^2); 1 in the paper.

    Yields:
        Rows.
    """
    order, size = np.arange(len(pool)), len(pool)
    if len(pool) > _TOGETHER:
        order, size = Randomness(seed=0, scope="pick").permutation("cover", order, 0), _PART
    for rows in torch.split(torch.from_numpy(order), max(1, size)):
        yield from _cover(pool, rows, gamma)


def _cover(pool: Pool, rows: torch.Tensor, gamma: float) -> Iterator[int]:
    """Pick some rows until none of them is free.

    Coverage is submodular: what an image would add only shrinks. So a gain that was computed earlier is an upper bound,
    and only images whose bound is above the best gain have theirs computed again (Minoux 1978): the same picks without
    an (N, N) matrix.

    Args:
        pool: what is picked from.
        rows: what covers and is covered, of shape (M,).
        gamma: of the kernel.
    """
    targets, covered = pool.features[rows], torch.zeros(len(rows))
    for known in pool.known:
        covered = torch.maximum(covered, _kernel(targets @ pool.features[known], gamma))
    bounds = _gains(pool, rows, targets, covered, gamma)
    while bool(pool.free[rows].any()):
        bounds[~pool.free[rows]] = -1
        stale = bounds.clone()
        best, number = -1.0, -1
        while True:
            numbers = stale.topk(min(_CANDIDATES, len(rows))).indices.sort().values
            numbers = numbers[stale[numbers] > best]
            if not len(numbers):
                break
            gains = _gains(pool, rows[numbers], targets, covered, gamma)
            bounds[numbers], stale[numbers] = gains, -1
            if float(gains.max()) > best:
                best, number = float(gains.max()), int(numbers[int(gains.argmax())])
        row = int(rows[number])
        pool.take(row)
        yield row
        covered = torch.maximum(covered, _kernel(targets @ pool.features[row], gamma))
