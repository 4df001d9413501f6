"""What held-out images say of an encoder, image by image, so that two encoders can be told apart by more than chance.

With labels: nearest neighbours and 5-shot. Without: which images are nearest, and how widely features spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layergraft.data.arrays import Indices, Labels
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import Array, center_and_normalize, extract, in_range
from layergraft.evaluation.few_shot import FEW_SHOT, exact, predict
from layergraft.evaluation.knn import knn_votes
from layergraft.evaluation.rankme import rankme
from layergraft.evaluation.splits import few_labels

SHOTS, TASKS = 5, 5
K, TEMPERATURE = 20, 0.07
FEWEST = 20  # held-out images with a label, below which labels say too little
NEAR = 0.02  # of the neighbours there are, which count as the nearest, and at least:
FEWEST_NEAR = 5


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of an encoder.

    Args:
        numbers: name -> value: `knn` and `five_shot` in percent, or `rankme` alone.
        scores: with labels: of each held-out image the mean of both in percent, of shape (N,).
        neighbours: without: rows of the nearest images of each held-out one, of shape (N, k).
    """

    numbers: dict[str, float]
    scores: Tensor | None = None
    neighbours: Tensor | None = None

    @property
    def mean(self) -> float:
        """Of the scores."""
        assert self.scores is not None
        return float(self.scores.mean())

    def lead(self, other: Figures) -> tuple[float, float]:
        """(How much the scores lead those of another encoder in points, the standard error of that)."""
        assert self.scores is not None
        assert other.scores is not None
        difference = self.scores - other.scores
        return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)

    def agreement(self, other: Figures) -> float:
        """Part of the nearest neighbours that another encoder finds as well."""
        assert self.neighbours is not None
        assert other.neighbours is not None
        shared = (self.neighbours[:, :, None] == other.neighbours[:, None, :]).any(2)
        return float(shared.double().mean())

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": self.numbers, "scores": self.scores, "neighbours": self.neighbours}


class HeldOut:
    """Held-out images, with training images as their neighbours and shots.

    Args:
        train: training images, as many as are looked at.
        holdout: held-out images, likewise.
    """

    def __init__(self, train: Source, holdout: Source) -> None:
        self.train, self.holdout = train, holdout
        self.tasks: list[tuple[Indices, Labels]] = []  # rows of the neighbours with a label, and their classes
        self.has_labels = self.labelled = train.labels is not None and holdout.labels is not None
        if self.labelled:
            self.train, self.holdout = train.labelled, holdout.labelled
            self.labels, self.truth = self.train.selected_labels, self.holdout.selected_labels
            counts = np.bincount(self.labels, minlength=len(train.classes))
            known = counts[self.truth] > 0
            self.labelled = bool((counts > 0).sum() > 1 and known.sum() >= FEWEST)
        if self.labelled:
            self._draw_tasks(counts)
        else:
            self.train, self.holdout = train, holdout

    def _draw_tasks(self, counts: Labels) -> None:
        """5-shot tasks of the classes that have as many images; of fewer shots where most have not."""
        present = np.sort(counts[counts > 0])
        shots = min(SHOTS, int(np.median(present)), int(present[-2]))  # two classes at least
        classes = np.flatnonzero(counts >= shots)
        rows = np.flatnonzero(np.isin(self.labels, classes))
        names = [self.train.classes[number] for number in classes]
        labels = np.searchsorted(classes, self.labels[rows])
        self.classes = torch.from_numpy(classes)
        for number in range(TASKS):
            chosen = few_labels(labels, self.train.keys[rows], names, shots, number, scope="guard")
            self.tasks.append((rows[chosen], labels[chosen]))

    def measure(self, encoder: Encoder) -> Figures:
        """Measure an encoder.

        Args:
            encoder: left in the mode that it is in.

        Raises:
            NonFiniteFeatures: it has diverged.
        """
        training = encoder.training
        try:
            bank, held = extract(encoder, self.train, "cls"), extract(encoder, self.holdout, "cls")
        finally:
            encoder.train(training)
        return self._by_labels(bank, held) if self.labelled else self._by_neighbours(bank, held)

    def _by_labels(self, bank: Array, held: Array) -> Figures:
        truth = torch.from_numpy(self.truth)
        near, queries = (torch.from_numpy(in_range(part)) for part in (bank, held))
        votes = knn_votes(near, torch.from_numpy(self.labels), queries, [K], [TEMPERATURE], len(self.train.classes))
        by_knn = (votes[K, TEMPERATURE].argmax(1) == truth).double()
        x, z = (exact(torch.from_numpy(center_and_normalize(part))) for part in (bank, held))
        fits = [
            FEW_SHOT["ridge"].fit_path(x[rows], torch.from_numpy(labels), len(self.classes), [FEW_SHOT["ridge"].fixed])
            for rows, labels in self.tasks
        ]
        named = self.classes[predict([fit[0] for fit in fits], z)]  # (tasks, N)
        by_few = (named == truth).double().mean(0)
        # An image of a class that has too few for the tasks has kNN alone.
        in_tasks = torch.isin(truth, self.classes)
        scores = torch.where(in_tasks, (by_knn + by_few) / 2, by_knn)
        few = float(by_few[in_tasks].mean()) if bool(in_tasks.any()) else 0.0
        return Figures(numbers={"knn": 100 * float(by_knn.mean()), "five_shot": 100 * few}, scores=100 * scores)

    def _by_neighbours(self, bank: Array, held: Array) -> Figures:
        k = min(len(bank), max(FEWEST_NEAR, round(NEAR * len(bank))))
        x, z = (torch.nn.functional.normalize(torch.from_numpy(in_range(part)), dim=1) for part in (bank, held))
        return Figures(numbers={"rankme": rankme(torch.from_numpy(held))}, neighbours=(z @ x.T).topk(k).indices)


def figures_of(state: dict[str, Any]) -> Figures:
    """Figures as `state_dict` gave them."""
    return Figures(**state)
