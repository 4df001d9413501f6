"""Each labelled row, classified by a classifier that was fitted to others: what thirty labels tell about themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from layergraft.data.arrays import Labels
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.evaluation.few_shot import FewShotProtocol
from layergraft.evaluation.selection import Fold
from layergraft.runs.announce import announce
from layergraft.runs.interruption import check

FOLDS, REPEATS = 5, 10
MOST_LEFT_OUT = 200  # rows of which each may be left out in turn; a fit each


def whole_files(labelled: Source) -> Labels | None:
    """Which file each labelled image was cut from, of shape (N,), where folds are not to part a file; else None.

    Tiles of one slide look alike: a classifier that has seen some of them says little about another slide. Where a
    class has tiles of one file alone, no fold could foresee it: then files are parted, and it is said.
    """
    if labelled.files is None or not len(labelled):
        return None
    files = unparted(labelled.selected_labels, labelled.files[labelled.keys].astype(np.int64))
    if files is not None:
        return files
    announce(
        f"{labelled.spec}: a class has tiles of one image alone, so tiles of one image are in several folds: of other "
        "images fewer tiles are named rightly than cross-validation says."
    )
    return None


def unparted(labels: Labels, files: Labels) -> Labels | None:
    """Files of labelled rows, of shape (N,) like `labels`, where every class has two of them at least; else None."""
    pairs = np.unique(np.stack([labels, files]), axis=1)
    return files if np.unique(pairs[0], return_counts=True)[1].min() > 1 else None


def deal_folds(labels: Labels, folds: int, seed: int, files: Labels | None = None) -> list[Fold]:
    """Stratified folds of about equal size: the rows of a class are spread over as many folds as they can be.

    Args:
        labels: of shape (N,).
        folds: how many; at most N are made.
        seed: of the order in which the rows of a class are dealt.
        files: whole files are dealt, see `whole_files`.
    """
    if files is not None:
        _, first, file_of_row = np.unique(files, return_index=True, return_inverse=True)
        masks = [np.isin(file_of_row, tested) for _, tested in deal_folds(labels[first], folds, seed)]
        return [(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks]
    rows = np.arange(len(labels), dtype=np.int64)
    order = Randomness(seed=seed, scope="cross-validation").permutation("order", rows, 0)
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold_of_row = np.empty(len(labels), dtype=np.int64)
    fold_of_row[by_class] = rows % folds
    tested = [fold_of_row == fold for fold in range(min(folds, len(labels)))]
    return [(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in tested]


def repeated_folds(labels: Labels, repeats: int = REPEATS, files: Labels | None = None) -> list[list[Fold]]:
    """The folds that an accuracy is measured with.

    Five stratified folds, dealt several times; once, and each row left out in turn, where a class has fewer than five
    rows and all rows are few. Files take the place of rows where they are given; see `whole_files`.
    """
    dealt = labels if files is None else labels[np.unique(files, return_index=True)[1]]
    counts = np.bincount(dealt)
    if counts[counts > 0].min() < FOLDS and len(dealt) <= MOST_LEFT_OUT:
        return [deal_folds(labels, len(dealt), 0, files)]
    return [deal_folds(labels, FOLDS, seed, files) for seed in range(repeats)]


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
