"""TypiClust: the most typical image of each cluster that has no label yet (Hacohen et al., ICML 2022, section 3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from layergraft.data.arrays import Indices
from layergraft.evaluation.picking.pool import Pool

FIRST_ROUND = 10
_LARGEST_BLOCK = 2**25


def clusters(pool: Pool, count: int, seed: int) -> Indices:
    """k-means: cluster of each image, of shape (N,)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    means = KMeans(n_clusters=min(count, len(pool)), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than clusters
        return np.asarray(means.fit_predict(pool.features.numpy()), dtype=np.int64)


def typicality(features: torch.Tensor, k: int) -> torch.Tensor:
    """1 / mean distance to the k nearest of the same cluster: (M, D) -> (M,)."""
    count = len(features)
    if count == 1:
        return torch.ones(1)
    near = min(k, count - 1)
    distances = torch.empty(count)
    rows = max(1, _LARGEST_BLOCK // count)
    for start in range(0, count, rows):
        similarity = (features[start : start + rows] @ features.T).topk(near + 1).values
        # The most similar is the image itself.
        distances[start : start + rows] = (2 - 2 * similarity[:, 1:]).clamp(min=0).sqrt().mean(1)
    return 1 / (distances + 1e-7)


def typiclust(pool: Pool, k: int = 20, seed: int = 0) -> Iterator[int]:
    """Pick in rounds; in each there are as many clusters as labels and picks so far, and new picks.

    The paper picks B images in a round. B images of one round are not the first B of a round of 2 B, whose clusters are
    smaller: so that picks are nested, rounds have a size of their own, 10 and from then on as many as are known.

    Args:
        pool: what is picked from.
        k: neighbours that typicality is measured with; 20 in the paper.
        seed: of k-means.

    Yields:
        Rows; in each round, of the largest cluster without a label first.
    """
    while bool(pool.free.any()):
        batch = max(FIRST_ROUND, len(pool.known))
        cluster = clusters(pool, len(pool.known) + batch, seed)
        sizes = np.bincount(cluster)
        sizes[cluster[pool.known]] = 0
        picked = 0
        for index in np.argsort(-sizes, kind="stable")[:batch].tolist():
            rows = np.flatnonzero(cluster == index)
            if not sizes[index] or not bool(pool.free[rows].any()):
                continue
            typical = typicality(pool.features[rows], k)
            typical[~pool.free[rows]] = -1
            row = int(rows[int(typical.argmax())])
            pool.take(row)
            picked += 1
            yield row
        if not picked:  # what is free lies in clusters that have labels: in the order of rows, a round for each
            row = int(pool.free.nonzero()[0])
            pool.take(row)
            yield row
