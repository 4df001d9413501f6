"""MaxHerding: the images that add most to a smooth coverage of all (Bae et al., ECCV 2024, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from layergraft.data.randomness import Randomness
from layergraft.evaluation.picking.pool import Pool

_CANDIDATES = 64  # whose gain is computed at once
_EXACT = 30_000  # images, up to which coverage is that of all of them
_TARGETS = 10_000  # images whose coverage stands for that of more


def _kernel(similarity: torch.Tensor, gamma: float) -> torch.Tensor:
    """exp(-gamma distance^2) of unit rows with these cosine similarities; it changes them in place."""
    return similarity.sub_(1).mul_(2 * gamma).exp_()


def _targets(pool: Pool) -> torch.Tensor:
    """Features of the images that are to be covered, of shape (M, D)."""
    if len(pool) <= _EXACT:
        return pool.features
    drawn = Randomness(seed=0, scope="pick").permutation("cover", np.arange(len(pool)), 0, first=_TARGETS)
    return pool.features[torch.from_numpy(drawn)]


def _gains(pool: Pool, rows: torch.Tensor, targets: torch.Tensor, covered: torch.Tensor, gamma: float) -> torch.Tensor:
    """What each of some rows would add to the coverage, of shape (R,)."""
    gains = torch.empty(len(rows), dtype=torch.float64)
    for part, similarity in pool.similarities(rows, targets):
        gains[part] = _kernel(similarity, gamma).sub_(covered).clamp_(min=0).sum(1, dtype=torch.float64)
    return gains


def maxherding(pool: Pool, gamma: float = 1.0) -> Iterator[int]:
    """Pick greedily what adds most to the mean over all images of their kernel with the nearest pick.

    Coverage is submodular: what an image would add only shrinks. So a gain that was computed earlier is an upper bound,
    and only images whose bound is above the best gain have theirs computed again (Minoux 1978): the same picks without
    an (N, N) matrix. Each bound has to be computed once, which takes N^2 kernels in all: of more than 30,000 images,
    10,000 that are drawn at random stand for all where coverage is summed; every image may still be picked.

    Args:
        pool: what is picked from.
        gamma: of the Gaussian kernel exp(-gamma distance^2); 1 in the paper.

    Yields:
        Rows.
    """
    targets = _targets(pool)
    covered = torch.zeros(len(targets))

    def cover(row: int) -> torch.Tensor:
        return torch.maximum(covered, _kernel(targets @ pool.features[row], gamma))

    for known in pool.known:
        covered = cover(known)
    bounds = _gains(pool, torch.arange(len(pool)), targets, covered, gamma)
    while bool(pool.free.any()):
        bounds[~pool.free] = -1
        stale = bounds.clone()
        best, row = -1.0, -1
        while True:
            rows = stale.topk(min(_CANDIDATES, len(pool))).indices.sort().values
            rows = rows[stale[rows] > best]
            if not len(rows):
                break
            gains = _gains(pool, rows, targets, covered, gamma)
            bounds[rows], stale[rows] = gains, -1
            if float(gains.max()) > best:
                best, row = float(gains.max()), int(rows[int(gains.argmax())])
        pool.take(row)
        yield row
        covered = cover(row)
