"""The methods by name, and which images each picks."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import islice
from typing import Literal, get_args

import numpy as np

from layergraft.data.arrays import Indices, Labels
from layergraft.errors import UserError
from layergraft.evaluation.features import Array
from layergraft.evaluation.picking.by_chance import by_chance
from layergraft.evaluation.picking.margin import margin
from layergraft.evaluation.picking.maxherding import maxherding
from layergraft.evaluation.picking.pool import Pool
from layergraft.evaluation.picking.probcover import probcover
from layergraft.evaluation.picking.typiclust import typiclust
from layergraft.runs.interruption import check

Method = Literal["typiclust", "probcover", "maxherding", "margin", "random"]
AUTO: Method = "maxherding"
"""The best on images that nothing was trained on; see `tools/pick_study.py`."""
CLASSES = 10
"""Number of classes that is assumed where labels do not tell."""


def resolved(method: Method | Literal["auto"]) -> Method:
    """The method that a name stands for.

    Raises:
        UserError: the method needs scikit-learn, which is missing.
    """
    if method == "auto":
        return AUTO
    if method == "typiclust" and importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "The method typiclust needs scikit-learn.",
            f"pip install 'layergraft[analysis]', or --method {AUTO}.",
        )
    return method


def picks(pool: Pool, method: Method, labelled: Indices, labels: Labels, seed: int = 0) -> Iterator[int]:
    """The rows of `pool` that a method picks, one after another; it is not told how many are wanted.

    Args:
        pool: what is picked from.
        method: its name.
        labelled: rows that have a label, of shape (L,).
        labels: their classes, of shape (L,).
        seed: of what is drawn at random.

    Raises:
        UserError: no method has that name.
    """
    if method == "typiclust":
        return typiclust(pool, seed=seed)
    if method == "probcover":
        named = len(np.unique(labels))
        return probcover(pool, named if named > 1 else CLASSES, seed=seed)
    if method == "maxherding":
        return maxherding(pool)
    if method == "margin":
        return margin(pool, labelled, labels)
    if method == "random":
        return by_chance(pool, seed)
    raise UserError(f"No method of picking is called {method!r}.", f"Take one of {', '.join(get_args(Method))}.")


def pick_rows(
    features: Array,
    number: int,
    method: Method = AUTO,
    labelled: Indices | None = None,
    labels: Labels | None = None,
    seed: int = 0,
    threshold: float | None = None,
) -> Indices:
    """Which images to label next, in order. The first 10 of 30 are the pick of 10.

    Args:
        features: unit rows of shape (N, D), float32.
        number: how many.
        method: its name.
        labelled: rows that have a label, of shape (L,); they and their near-duplicates are never picked.
        labels: their classes, of shape (L,).
        seed: of what is drawn at random.
        threshold: cosine similarity from which two images count as one; None derives it.

    Returns:
        Rows, of shape (number,); fewer where all others are near-duplicates.
    """
    nothing = np.empty(0, dtype=np.int64)
    labelled, labels = (nothing if part is None else part for part in (labelled, labels))
    pool = Pool(features, labelled, threshold)
    picked = []
    for row in islice(picks(pool, method, labelled, labels, seed), number):
        check()
        picked.append(row)
    return np.array(picked, dtype=np.int64)
