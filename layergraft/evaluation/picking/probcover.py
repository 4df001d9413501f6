"""ProbCover: the images whose balls cover most of what no ball covers yet (Yehuda et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from layergraft.data.randomness import Randomness
from layergraft.evaluation.picking.pool import Pool
from layergraft.evaluation.picking.typiclust import clusters
from layergraft.runs.interruption import check

PURITY = 0.95
_SAMPLE = 2000


def pure_radius(pool: Pool, classes: int, seed: int = 0, purity: float = PURITY) -> float:
    """The largest radius at which 95 % of the balls hold images of one k-means cluster only (section 4.2).

    A ball is pure as long as its radius is below the distance to the nearest image of another cluster; so the radius
    is a quantile of these distances. They are measured for up to 2,000 of the images, against all.

    Args:
        pool: what is picked from.
        classes: number of clusters; the paper takes that of the classes.
        seed: of k-means and of the sample.
        purity: share of the balls that are to be pure.
    """
    cluster = torch.from_numpy(clusters(pool, classes, seed))
    drawn = Randomness(seed=seed, scope="pick").permutation("radius", np.arange(len(pool)), 0, first=_SAMPLE)
    rows = torch.from_numpy(drawn)
    nearest = torch.empty(len(rows))
    for part, similarity in pool.similarities(rows):
        similarity[cluster[rows[part], None] == cluster] = -1
        nearest[part] = similarity.amax(1)
    distances = (2 - 2 * nearest.double()).clamp(min=0).sqrt().sort().values
    impure = int((1 - purity) * len(rows) + 1e-9)
    return float(distances[impure]) * (1 - 1e-6)


def _covers(similarity: torch.Tensor, radius: float) -> torch.Tensor:
    return similarity >= 1 - radius**2 / 2


def _counts(similarity: torch.Tensor, radius: float, axis: int) -> torch.Tensor:
    """How many of the similarities lie within the radius, along an axis; NumPy counts ten times as fast as torch."""
    return torch.from_numpy(np.count_nonzero(_covers(similarity, radius).numpy(), axis=axis))


def _degrees(pool: Pool, rows: torch.Tensor, radius: float) -> torch.Tensor:
    """How many of `rows` the ball of each image holds, of shape (N,)."""
    degrees = torch.zeros(len(pool), dtype=torch.int64)
    for _, similarity in pool.similarities(rows):
        degrees += _counts(similarity, radius, 0)
    return degrees


def _degrees_of_uncovered(pool: Pool, covered: torch.Tensor, radius: float) -> torch.Tensor:
    """How many uncovered images the ball of each image holds, of shape (N,).

    Two images lie in each other's balls, or not: so each pair of uncovered ones is compared once.
    """
    rows, others = (~covered).nonzero()[:, 0], covered.nonzero()[:, 0]
    degrees, among = torch.zeros(len(pool), dtype=torch.int64), torch.zeros(len(rows), dtype=torch.int64)
    features = pool.features[rows]
    start = 0
    while start < len(rows):
        check()
        end = min(len(rows), start + max(1, pool.block // (len(rows) - start)))
        similarity = features[start:end] @ features[start:].T  # with itself and all that come behind it
        among[start:] += _counts(similarity, radius, 0)
        among[start:end] += _counts(similarity[:, end - start :], radius, 1)
        start = end
    degrees[rows] = among
    for part, similarity in pool.similarities(others, features):
        degrees[others[part]] = _counts(similarity, radius, 1)
    return degrees


def probcover(pool: Pool, classes: int, radius: float | None = None, seed: int = 0) -> Iterator[int]:
    """Pick greedily. Where all is covered, the radius is halved.

    The graph of balls is never held: each pair of images is compared when all are counted, and each image with all
    others when it becomes covered. Of 100,000 images of width 384 these are some 10 tera-operations.

    Args:
        pool: what is picked from.
        classes: see `pure_radius`.
        radius: of the balls; None derives it.
        seed: see `pure_radius`.

    Yields:
        Rows.
    """
    radius = pure_radius(pool, classes, seed) if radius is None else radius
    while bool(pool.free.any()):
        covered = torch.zeros(len(pool), dtype=torch.bool)
        for row in pool.known:
            covered |= _covers(pool.features @ pool.features[row], radius)
        degrees = _degrees_of_uncovered(pool, covered, radius)
        while bool(pool.free.any()):
            row = int(torch.where(pool.free, degrees, -1).argmax())
            if not degrees[row]:
                break
            pool.take(row)
            yield row
            new = _covers(pool.features @ pool.features[row], radius) & ~covered
            covered |= new
            degrees -= _degrees(pool, new.nonzero()[:, 0], radius)
        radius /= 2
