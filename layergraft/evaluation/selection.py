"""Choices, made on the labelled rows themselves or on held-out images; nothing here is given the test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layergraft.data.arrays import Indices, Labels
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.evaluation.features import Array, center_and_normalize
from layergraft.evaluation.few_shot import FEW_SHOT, FewShotProtocol, exact, predict
from layergraft.evaluation.splits import few_labels

Fold = tuple[Indices, Indices]
"""(rows to fit, rows to test)."""
TASKS = 5
"""Few-shot tasks drawn from the held-out images for one choice."""


def shot_folds(labels: Labels, classes: int) -> list[Fold]:
    """Stratified folds over the shots: 5 from 5 shots on, leave one per class out for 2 to 4, none at 1 shot."""
    folds = min(5, int(np.bincount(labels, minlength=classes).min()))
    if folds < 2:
        return []
    fold_of_row = np.empty(len(labels), dtype=np.int64)
    for c in range(classes):
        rows_of_class = np.flatnonzero(labels == c)
        fold_of_row[rows_of_class] = np.arange(len(rows_of_class)) % folds
    return [(np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold)) for fold in range(folds)]


def holdout_tasks(holdout: Source, shots: int) -> tuple[int, list[Fold]]:
    """Few-shot tasks drawn from held-out images.

    Args:
        holdout: labelled.
        shots: per class; no more than half of the smallest class are used.

    Returns:
        (shots of a task, the tasks).

    Raises:
        UserError: a class has fewer than two held-out images.
    """
    labels = holdout.selected_labels
    counts = np.bincount(labels, minlength=len(holdout.classes))
    if counts.min() < 2:
        too_small = [f"{holdout.classes[c]!r} ({counts[c]})" for c in np.flatnonzero(counts < 2)]
        raise UserError(
            f"Nothing can be chosen on {len(holdout)} held-out images: {len(too_small)} classes have fewer than two of "
            f"them: {', '.join(too_small[:5])}.",
            "Hold out more (--holdout; in a run --data.holdout, or --data.holdout_by class), or use the published "
            "variant, one k and one pooling.",
        )
    shots = min(shots, int(counts.min()) // 2)
    tasks = []
    for number in range(TASKS):
        rows = few_labels(labels, holdout.keys, holdout.classes, shots, number, scope="holdout tasks")
        tasks.append((rows, np.setdiff1d(np.arange(len(labels)), rows)))
    return shots, tasks


def scores(
    protocol: FewShotProtocol,
    strengths: Sequence[float],
    features: Tensor,
    labels: Labels,
    classes: int,
    tasks: Sequence[Fold],
) -> npt.NDArray[np.float64]:
    """Accuracy of each strength in percent, averaged over the test rows of all tasks."""
    targets = torch.from_numpy(labels).to(features.device)
    hits, count = np.zeros(len(strengths)), 0
    for fitted, tested in tasks:
        classifiers = protocol.fit_path(exact(features[fitted]), targets[fitted], classes, strengths)
        hits += (predict(classifiers, exact(features[tested])) == targets[tested]).sum(1).cpu().numpy()
        count += len(tested)
    return 100 * hits / count


def strongest_of_the_best(strengths: Sequence[float], accuracies: npt.NDArray[np.float64]) -> float:
    """Of equally good penalties the strongest: it moves least."""
    best = accuracies.max()
    return max(strength for strength, accuracy in zip(strengths, accuracies, strict=True) if accuracy == best)


def strength_on_folds(
    protocol: FewShotProtocol, features: Tensor, labels: Labels, classes: int
) -> tuple[float, dict[str, Any]]:
    """Choose a penalty by folds over the labelled rows themselves; the published one where there is no fold.

    Returns:
        (lambda * n, `chosen` of the result rows).
    """
    folds = shot_folds(labels, classes)
    if not folds:
        return protocol.fixed, {"lambda_n": protocol.fixed, "by": "fixed: a class has one shot, which leaves no fold"}
    accuracies = scores(protocol, protocol.cv_strengths, features, labels, classes, folds)
    strength = strongest_of_the_best(protocol.cv_strengths, accuracies)
    return strength, {"lambda_n": strength, "by": "folds over the shots", "folds": len(folds)}


def best_pooling(features: dict[str, Tensor], holdout: Source, shots: Sequence[int]) -> str:
    """The pooling whose ridge regression is best on few-shot tasks of held-out images, averaged over `shots`.

    Args:
        features: pooling -> prepared features of the held-out images, of shape (N, D).
        holdout: labelled.
        shots: images per class.
    """
    ridge, labels, classes = FEW_SHOT["ridge"], holdout.selected_labels, len(holdout.classes)
    tasks_by_shots = [holdout_tasks(holdout, count)[1] for count in shots]

    def summed_accuracy(pooling: str) -> float:
        x = features[pooling]
        best = [scores(ridge, ridge.strengths, x, labels, classes, tasks).max() for tasks in tasks_by_shots]
        return float(sum(best))

    return max(features, key=summed_accuracy)


def ridge_accuracy(train: Array, labels: Labels, test: Array, truth: Labels, classes: int) -> float:
    """Top-1 of ridge regression in percent; its penalty is chosen by folds over the training rows.

    Args:
        train: features of shape (N, D).
        labels: of shape (N,), below `classes`.
        test: features of shape (M, D).
        truth: of shape (M,).
        classes: number of classes.
    """
    ridge = FEW_SHOT["ridge"]
    x, z = (exact(torch.from_numpy(center_and_normalize(part))) for part in (train, test))
    folds = shot_folds(labels, classes)
    strength = ridge.fixed
    if folds:
        accuracies = scores(ridge, ridge.strengths, x, labels, classes, folds)
        strength = strongest_of_the_best(ridge.strengths, accuracies)
    classifiers = ridge.fit_path(x, torch.from_numpy(labels), classes, [strength])
    return 100 * float((predict(classifiers, z)[0].numpy() == truth).mean())
