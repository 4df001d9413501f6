"""Margin: the images between whose two likeliest classes the classifier wavers most (Scheffer et al., 2001)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from layergraft.data.arrays import Indices, Labels
from layergraft.errors import UserError
from layergraft.evaluation.few_shot import FEW_SHOT, exact
from layergraft.evaluation.picking.pool import Pool

_ROWS = 2**14  # whose probabilities are computed at once


def margins(pool: Pool, labelled: Indices, labels: Labels) -> torch.Tensor:
    """Probability of the likeliest class less that of the second, of shape (N,), by the logistic protocol.

    Args:
        pool: what is picked from.
        labelled: rows that have a label, of shape (L,).
        labels: their classes, of shape (L,).

    Raises:
        UserError: fewer than two classes are labelled.
    """
    named, ids = np.unique(labels, return_inverse=True)
    if len(named) < 2:
        raise UserError(
            f"margin needs labels of two classes at least, and there are {len(labelled)} of {len(named)}.",
            "Give them with --labels FILE, or take another --method.",
        )
    protocol = FEW_SHOT["logistic"]
    rows = torch.from_numpy(labelled)
    features, targets = exact(pool.features[rows]), torch.from_numpy(ids)
    ((weights, bias),) = protocol.fit_path(features, targets, len(named), [protocol.fixed])
    two_best = []
    for part in torch.split(pool.features, _ROWS):
        two_best.append((part.to(weights.dtype) @ weights + bias).softmax(1).topk(2).values)
    first, second = torch.cat(two_best).unbind(1)
    return first - second


def margin(pool: Pool, labelled: Indices, labels: Labels) -> Iterator[int]:
    """Pick by rising margin; see `margins`."""
    for row in margins(pool, labelled, labels).argsort(stable=True).tolist():
        if pool.free[row]:
            pool.take(row)
            yield row
