"""Picks by chance: what every method has to beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from layergraft.data.randomness import Randomness
from layergraft.evaluation.picking.pool import Pool


def by_chance(pool: Pool, seed: int = 0) -> Iterator[int]:
    """A random order of the rows, without near-duplicates of what is known."""
    for row in Randomness(seed=seed, scope="pick").permutation("random", np.arange(len(pool)), 0).tolist():
        if pool.free[row]:
            pool.take(row)
            yield row
