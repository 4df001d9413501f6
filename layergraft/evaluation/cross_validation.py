"""Each labelled row, classified by a classifier that was fitted to others: what thirty labels tell about themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from layergraft.data.arrays import Labels
from layergraft.data.randomness import Randomness
from layergraft.evaluation.few_shot import FewShotProtocol
from layergraft.evaluation.selection import Fold
from layergraft.runs.interruption import check

FOLDS, REPEATS = 5, 10
MOST_LEFT_OUT = 200  # rows of which each may be left out in turn; a fit each


def deal_folds(labels: Labels, folds: int, seed: int) -> list[Fold]:
    """Stratified folds of about equal size: the rows of a class are spread over as many folds as they can be.

    Args:
        labels: of shape (N,).
        folds: how many; at most N are made.
        seed: of the order in which the rows of a class are dealt.
    """
    rows = np.arange(len(labels), dtype=np.int64)
    order = Randomness(seed=seed, scope="cross-validation").permutation("order", rows, 0)
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold_of_row = np.empty(len(labels), dtype=np.int64)
    fold_of_row[by_class] = rows % folds
    tested = [fold_of_row == fold for fold in range(min(folds, len(labels)))]
    return [(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in tested]


def repeated_folds(labels: Labels, repeats: int = REPEATS) -> list[list[Fold]]:
    """The folds that an accuracy is measured with.

    Five stratified folds, dealt several times; once, and each row left out in turn, where a class has fewer than five
    rows and all rows are few.
    """
    counts = np.bincount(labels)
    if counts[counts > 0].min() < FOLDS and len(labels) <= MOST_LEFT_OUT:
        return [deal_folds(labels, len(labels), 0)]
    return [deal_folds(labels, FOLDS, seed) for seed in range(repeats)]


def out_of_fold(
    protocol: FewShotProtocol,
    features: Tensor,
    labels: Labels,
    classes: int,
    folds: Sequence[Fold],
    strengths: Sequence[float],
) -> Tensor:
    """Logits of each row by classifiers that were fitted to the other folds.

    Args:
        protocol: what fits them.
        features: of shape (N, D).
        labels: of shape (N,), below `classes`.
        classes: number of classes, C.
        folds: together they test each row once.
        strengths: penalties, from strong to weak, S of them.

    Returns:
        Logits of shape (S, N, C).
    """
    targets = torch.from_numpy(labels).to(features.device)
    logits = features.new_zeros(len(strengths), len(labels), classes)
    for fitted, tested in folds:
        check()
        path = protocol.fit_path(features[fitted], targets[fitted], classes, strengths)
        for strength, (weights, bias) in enumerate(path):
            logits[strength, torch.from_numpy(tested)] = features[tested] @ weights + bias
    return logits
