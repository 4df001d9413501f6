"""Few-shot accuracy of one encoder on test and held-out images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from msgspec import structs

from layergraft.analysis.label_free import SCORED, clusters, scores
from layergraft.commands.study.settings import Settings
from layergraft.config import EvaluateConfig, Recipe
from layergraft.config.data import ViewConfig
from layergraft.config.loading import load_evaluate
from layergraft.data.randomness import Randomness
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.sources.source import AS_THEY_ARE, Source
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import Array, check_block, extract_all, pixel_side, pixels
from layergraft.evaluation.frozen import Measurement
from layergraft.evaluation.single_images import SHOTS, single_image_accuracy, single_images
from layergraft.evaluation.splits import draw_splits
from layergraft.evaluation.task import Task
from layergraft.runs.results import ResultRow
from layergraft.training.display import Display
from layergraft.training.launch import launch
from layergraft.training.run_data import load_data
from layergraft.training.transfer import TrainedTask, evaluate_trained

CLUSTERS, CLUSTERED = 20, 25  # pseudo-classes, at most, and images of one on average, at least
Accuracies = dict[str, float]
"""`1`, `5`, `1%`, … (logistic regression on so many labels), `knn`, `linear`, `finetune` -> top-1 accuracy in percent,
the mean over splits."""


def test_source(source: str) -> str:
    """The test images that belong to a study's images.

    Raises:
        UserError: there are none.
    """
    spec = default_test_source(source)
    if spec is None:
        raise UserError(
            f"{source!r} has no test images beside it.",
            "The study needs labelled folders `train` and `val` (or `test`).",
        )
    return spec


def few_shots(config: EvaluateConfig) -> tuple[int, ...]:
    """The numbers of labelled images a class, without shares of the labels."""
    return tuple(shots for shots in config.frozen_shots if isinstance(shots, int))


def few_views(config: EvaluateConfig) -> tuple[int, ...]:
    """The numbers of views of a single image that are its examples."""
    return tuple(shots for shots in few_shots(config) if shots <= SHOTS)


class SeedImages:
    """The images of one seed, and what is measured on them.

    Args:
        recipe: names images and seed.
        labelled: whether there are labels and test images.
    """

    def __init__(self, recipe: Recipe, *, labelled: bool = True) -> None:
        assert recipe.data.source is not None
        self.recipe, self.spec = recipe, test_source(recipe.data.source) if labelled else ""
        self.data = load_data(recipe)

    def frozen(self, encoder: Encoder | None, config: EvaluateConfig, *, test: bool) -> dict[str, Accuracies]:
        """Accuracy on frozen features: labels from training images, other images to classify.

        Args:
            encoder: in evaluation mode; None is the pixels.
            config: what is measured.
            test: whether test images are classified as well; without it none is opened.

        Returns:
            `holdout`, and `test` where it is asked for.
        """
        tasks = {"holdout": Task.on_holdout(self.data.train, self.data.holdout, self.recipe.seed)}
        if test:
            images = open_source(self.spec)
            tasks["test"] = Task(train=self.data.train, test=images, test_name=self.spec, seed=self.recipe.seed)
        labelled = self._features(encoder, self.data.train, config)
        return {
            name: self._accuracies(
                task, config, encoder, {"train": labelled, "test": self._features(encoder, task.test, config)}
            )
            for name, task in tasks.items()
        }

    def without_labels(
        self, encoder: Encoder | None, config: EvaluateConfig, view: ViewConfig, *, test: bool
    ) -> dict[str, Accuracies]:
        """Accuracy at recognising single images by few views of each; no label is looked at.

        Args:
            encoder: in evaluation mode; None is the pixels.
            config: its numbers of shots are numbers of views.
            view: the augmentation.
            test: whether the half of the held-out images by which nothing is chosen is measured as well.

        Returns:
            `holdout`, and `test` where it is asked for.
        """
        held, size = self.data.holdout, self.recipe.encoder.img_size
        order = Randomness(seed=self.recipe.seed, scope="halves").permutation("images", held.keys, 0)
        halves = {"holdout": order[::2]} | ({"test": order[1::2]} if test else {})
        reads = AS_THEY_ARE if encoder is None else encoder.reads
        accuracies = {}
        for name, rows in halves.items():
            views = single_images(held.subset(held.keys[rows]), size, reads, seed=self.recipe.seed, view=view)
            accuracies[name] = single_image_accuracy(views, self._features(encoder, views, config), few_views(config))
        return accuracies

    def scores(self, encoder: Encoder, view: ViewConfig) -> dict[str, float]:
        """Scores of an encoder that need no label, but for those that are not finite; clusters are of the pixels.

        Args:
            encoder: in evaluation mode.
            view: the augmentation of views.
        """
        random, train = Randomness(seed=self.recipe.seed, scope="scores"), self.data.train
        some = train.subset(train.keys[random.permutation("images", train.keys, 0, first=SCORED)])
        floor = pixels(some, encoder.img_size, encoder.in_chans)
        readable = ~np.isnan(floor[:, 0])
        some, floor = some.subset(some.keys[readable]), floor[readable]
        grouped = clusters(torch.from_numpy(floor), max(2, min(CLUSTERS, len(some) // CLUSTERED)))
        found = scores(encoder, some, self.data.holdout, random, {"pixel_clusters": grouped}, view)
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def few_labels(self, encoder: Encoder | None, config: EvaluateConfig) -> Accuracies:
        """Accuracy of few labels on held-out images, as `frozen` has it; features of no other images are computed.

        Args:
            encoder: in evaluation mode; None is the pixels.
            config: what is measured, of protocols on few labels.
        """
        train = self.data.train
        splits = draw_splits(train, config.frozen_shots, config.splits)
        rows = np.unique(np.concatenate([split.rows for split in splits]))
        task = Task(
            train=train.subset(train.keys[rows]),
            test=self.data.holdout,
            test_name="holdout",
            seed=self.recipe.seed,
            splits=tuple(replace(split, rows=np.searchsorted(rows, split.rows)) for split in splits),
        )
        features = {name: self._features(encoder, source, config) for name, source in task.sources.items()}
        return self._accuracies(task, config, encoder, features)

    def trained(self, encoder: Encoder, settings: Settings, out: Path) -> Accuracies:
        """Linear and fine-tuned accuracy on test images with all labels; stages go to `out/trained`."""
        config, engine = load_evaluate({"protocols": list(settings.trained)}, {"engine.keep": 1})
        stages = {name: getattr(settings.evaluate, name) for name in config.trained_stages}
        config = structs.replace(config, **{name: stage for name, stage in stages.items() if stage is not None})
        images = Task(
            train=self.data.train,
            test=open_source(self.spec),
            test_name=self.spec,
            seed=self.recipe.seed,
            holdout=self.data.holdout,
        )
        task = TrainedTask.of(images, config, config.trained_stages, engine, out, launch(), Display())
        return accuracies_of(row for row in evaluate_trained(task, "encoder", encoder) if row.variant is None)

    def _features(self, encoder: Encoder | None, source: Source, config: EvaluateConfig) -> Array:
        """Not from the cache: no other command will ask for them."""
        if encoder is not None:
            check_block(config.block, encoder, "`evaluate.block`: the encoder")
            return extract_all(encoder, source, config.pooling[:1], config.block)[config.pooling[0]]
        size, channels = self.recipe.encoder.img_size, self.recipe.encoder.in_chans
        return pixels(source, size, channels, pixel_side(size, channels, len(self.data.train)))

    def _accuracies(
        self, task: Task, config: EvaluateConfig, encoder: Encoder | None, features: dict[str, Array]
    ) -> Accuracies:
        task, features = task.readable(features)
        device = torch.device("cpu") if encoder is None else encoder.device
        name, pooling = ("pixels", None) if encoder is None else ("encoder", config.pooling[0])
        return accuracies_of(Measurement(task, config, name, pooling, features, {}, device, None).rows())


def accuracies_of(rows: Iterable[ResultRow]) -> Accuracies:
    """Rows of results -> accuracy in each column."""
    accuracies = {}
    for row in rows:
        if row.protocol == "logistic" and row.split == "mean":
            accuracies[row.shots] = row.value
        elif row.protocol != "logistic" and row.split == "0":
            accuracies[row.protocol] = row.value
    return accuracies
