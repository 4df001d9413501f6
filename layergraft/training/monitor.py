"""What is watched while training, on held-out images.

An objective with labels: its own figure, by which its best epoch is chosen. Others: kNN where there are labels, and
signs of collapse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layergraft.config.recipe import MonitorConfig
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import LARGE, NonFiniteFeatures, extract
from layergraft.evaluation.knn import knn_accuracy
from layergraft.evaluation.rankme import rankme
from layergraft.evaluation.selection import ridge_accuracy
from layergraft.objectives.base import Objective
from layergraft.runs.collapse import collapse_warnings

# Images of an online evaluation, neighbours and held-out ones alike, for each image trained since the one before. A
# feature costs up to 0.7 of an image's training step (MAE's, which sees a quarter of the patches):
# 2 * 0.025 * 0.7 = 3.5 % of the time.
SHARE = 0.025
FEWEST = 100


def stratified_sample(source: Source, count: int, random: Randomness) -> Source:
    """A random sample that has each class in proportion, in the order of the source.

    Args:
        source: labelled images, or unlabelled ones, which count as one class.
        count: how many; all of them where there are no more.
        random: of the run, so that each online evaluation sees the same images.
    """
    size = len(source)
    if size <= count:
        return source
    order = random.permutation("held-out", source.keys, 0)
    classes = np.zeros(size, dtype=np.int64) if source.labels is None else source.selected_labels
    _, labels = np.unique(classes[order], return_inverse=True)
    # Image r of the n of its class, in random order, stands at (r + u) / n with one random u for each class; the first
    # `count` images by this place have as many of each class as its share, rounded up or down at random.
    counts = np.bincount(labels)
    shift = random.uniform("held-out class", np.arange(len(counts)), 0, 1)[:, 0]
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(size, dtype=np.int64)
    rank[by_class] = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)
    position = (rank + shift[labels]) / counts[labels]
    chosen = order[np.argsort(position, kind="stable")[:count]]
    return source.subset(source.keys[np.sort(chosen)])


class Monitor:
    """Online evaluation of a stage: when it is due, and what it finds on held-out images.

    Args:
        config: how often, how many images.
        train: images that are neighbours.
        holdout: images that are classified, of which a random sample stands for all.
        seed: the recipe's seed.
        epochs: length of the stage.
    """

    def __init__(self, config: MonitorConfig, train: Source, holdout: Source, seed: int, epochs: float) -> None:
        self.config, self.every = config, config.every
        between = len(train) * min(config.every or epochs, epochs)
        images = min(config.images, max(FEWEST, round(SHARE * between)))
        random = Randomness(seed=seed, scope="monitor")
        self.train = train.subset(train.keys[random.permutation("neighbours", train.keys, 0, first=images)])
        self.holdout = stratified_sample(holdout, images, random)
        self.all_held_out = holdout

    def due(self, step: int, steps: int, steps_per_epoch: int, must: bool = False) -> bool:
        """Whether an online evaluation follows `step` steps; with `must` one follows the last step in any case."""
        if not len(self.holdout):
            return False
        if not self.every:
            return must and step == steps
        interval = max(1, round(self.every * steps_per_epoch))
        return step == steps or step % interval == 0

    def evaluate(self, encoder: Encoder, objective: Objective) -> dict[str, float]:
        """Measure held-out images, in evaluation mode; after it both are in the mode of before.

        Args:
            encoder: of the stage, as it is now.
            objective: likewise.

        Returns:
            Of an objective with labels its own numbers, `selection_metric` among them. Of others `knn` (and `ridge`) in
            percent where there are labels, `feature_std` (1/sqrt(D) is isotropic) and `rankme`; only
            `nonfinite_features`, the number of their images, where features are not finite.
        """
        training = encoder.training
        encoder.eval()
        try:
            if objective.selection_metric is None:
                return self._watch(encoder)
            objective.eval()
            return objective.evaluate_holdout(encoder, self.all_held_out)
        except NonFiniteFeatures as error:
            return {"nonfinite_features": error.count}
        finally:
            encoder.train(training)
            if objective.selection_metric is not None:
                objective.train(training)

    def _watch(self, encoder: Encoder) -> dict[str, float]:
        held = torch.from_numpy(extract(encoder, self.holdout, "cls"))
        largest = float(held.abs().max())
        if largest > LARGE:  # both figures are of directions; squares would overflow
            held = held / largest
        normed = torch.nn.functional.normalize(held, dim=1)
        metrics = {"feature_std": float(normed.std(dim=0).mean()), "rankme": rankme(held)}
        if self.train.labels is not None:
            bank, labels = extract(encoder, self.train, "cls"), self.train.selected_labels
            truth = self.holdout.selected_labels
            if "knn" in self.config.protocols:
                metrics["knn"] = knn_accuracy(bank, labels, held.numpy(), truth)
            if "ridge" in self.config.protocols:
                metrics["ridge"] = ridge_accuracy(bank, labels, held.numpy(), truth, len(self.train.classes))
        return metrics

    def warnings(self, numbers: dict[str, Any], width: int) -> list[str]:
        """Sentences about features that say little: all images alike, or all along few directions.

        Args:
            numbers: what `evaluate` found, among others.
            width: of the features.
        """
        return collapse_warnings(self.config, numbers, width)
