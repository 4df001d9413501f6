"""MaxHerding: the images that add most to a smooth coverage of all (Bae et al., ECCV 2024, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from layergraft.evaluation.picking.pool import Pool

_CANDIDATES = 64  # whose gain is computed at once


def _kernel(similarity: torch.Tensor, gamma: float) -> torch.Tensor:
    """exp(-gamma distance^2) of unit rows with these cosine similarities; it changes them in place."""
    return similarity.sub_(1).mul_(2 * gamma).exp_()


def _gains(pool: Pool, rows: torch.Tensor, covered: torch.Tensor, gamma: float) -> torch.Tensor:
    """What each of some rows would add to the coverage, of shape (R,)."""
    gains = torch.empty(len(rows), dtype=torch.float64)
    for part, similarity in pool.similarities(rows):
        gains[part] = _kernel(similarity, gamma).sub_(covered).clamp_(min=0).sum(1, dtype=torch.float64)
    return gains


def maxherding(pool: Pool, gamma: float = 1.0) -> Iterator[int]:
    """Pick greedily what adds most to the mean over all images of their kernel with the nearest pick.

    Coverage is submodular: what an image would add only shrinks. So a gain that was computed earlier is an upper bound,
    and only images whose bound is above the best gain have theirs computed again (Minoux 1978): the same picks without
    an (N, N) matrix.

    Args:
        pool: what is picked from.
        gamma: of the Gaussian kernel exp(-gamma distance^2); 1 in the paper.

    Yields:
        Rows.
    """
    covered = torch.zeros(len(pool))
    for row in pool.known:
        covered = torch.maximum(covered, _kernel(pool.features @ pool.features[row], gamma))
    bounds = _gains(pool, torch.arange(len(pool)), covered, gamma)
    while bool(pool.free.any()):
        bounds[~pool.free] = -1
        stale = bounds.clone()
        best, row = -1.0, -1
        while True:
            rows = stale.topk(min(_CANDIDATES, len(pool))).indices.sort().values
            rows = rows[stale[rows] > best]
            if not len(rows):
                break
            gains = _gains(pool, rows, covered, gamma)
            bounds[rows], stale[rows] = gains, -1
            if float(gains.max()) > best:
                best, row = float(gains.max()), int(rows[int(gains.argmax())])
        pool.take(row)
        yield row
        covered = torch.maximum(covered, _kernel(pool.features @ pool.features[row], gamma))
