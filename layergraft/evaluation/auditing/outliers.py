"""Outliers: images far from all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layergraft.evaluation.auditing.near import nearest_rows
from layergraft.evaluation.features import Array

NEIGHBOURS = 10
FENCE = 3.0


def neighbour_distances(features: Array) -> npt.NDArray[np.float64]:
    """Mean distance of each image to its ten nearest neighbours (Ramaswamy et al. 2000), of shape (N,).

    Args:
        features: unit rows of shape (N, D).
    """
    distances = np.zeros(len(features))
    for start, nearest, similarity in nearest_rows(features, features, NEIGHBOURS, within=True):
        distances[start : start + len(nearest)] = np.sqrt(np.maximum(0, 2 - 2 * similarity)).mean(axis=1)
    return distances


def outliers(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows beyond Tukey's outer fence, three interquartile ranges above the upper quartile; the farthest first."""
    if not len(distances):
        return np.empty(0, dtype=np.int64)
    lower, upper = np.quantile(distances, [0.25, 0.75])
    far = np.flatnonzero(distances > upper + FENCE * (upper - lower))
    return far[np.argsort(-distances[far], kind="stable")]
