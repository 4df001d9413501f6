"""What is measured: labels, the images that are classified with them, and those that everything is chosen on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from layergraft.config.encoder import ImageSize
from layergraft.config.recipe import EvaluateConfig
from layergraft.data.arrays import Labels
from layergraft.data.decode import ReadOptions
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.evaluation.features import Array
from layergraft.evaluation.few_shot import FEW_SHOT
from layergraft.evaluation.selection import holdout_tasks
from layergraft.evaluation.single_images import single_images
from layergraft.evaluation.splits import Split, draw_splits
from layergraft.runs.announce import announce
from layergraft.runs.readable import counted

FeatureSets = dict[str, Array]
"""`train`, `test` and, where something is chosen, `holdout` or `views` -> features of shape (N, D)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labels and what they are for.

    Args:
        train: labelled images.
        test: images to classify; their classes are matched by name.
        test_name: `test` of the result rows.
        seed: the run's seed.
        holdout: labelled images on which everything is chosen; disjoint from `train`. None allows no choice.
        splits: lists of labelled images that were given; None draws them.
        views: of single training images, of `single_images`, where a penalty is chosen by them.
    """

    train: Source
    test: Source
    test_name: str
    seed: int
    holdout: Source | None = None
    splits: tuple[Split, ...] | None = None
    views: Source | None = None

    @classmethod
    def on_holdout(cls, train: Source, holdout: Source, seed: int) -> Task:
        """Labels from training images, held-out images to classify: what plans are compared on, never the test set.

        Nothing can be chosen on held-out images then: they stand for the test.
        """
        return cls(train=train, test=holdout, test_name="holdout", seed=seed)

    @property
    def sources(self) -> dict[str, Source]:
        """`train`, `test` and, where there are any, `holdout` and `views`."""
        sources = {"train": self.train, "test": self.test, "holdout": self.holdout, "views": self.views}
        return {name: source for name, source in sources.items() if source is not None}

    def with_views(self, config: EvaluateConfig, size: ImageSize, reads: ReadOptions) -> Task:
        """The same task with views of single images for an encoder's size, where a penalty is chosen by them."""
        if not config.takes_views:
            return self
        classes = len(np.unique(self.train.selected_labels))
        return replace(self, views=single_images(self.train, size, reads, classes, self.seed))

    def test_labels(self) -> Labels:
        """Class of each test image, as indices into the training classes."""
        test_counts = np.bincount(self.test.selected_labels, minlength=len(self.test.classes))
        train_counts = np.bincount(self.train.selected_labels, minlength=len(self.train.classes))
        trained = {name for name, count in zip(self.train.classes, train_counts, strict=True) if count}
        tested = zip(self.test.classes, test_counts, strict=True)
        unknown = [f"{name!r} ({count})" for name, count in tested if count and name not in trained]
        if unknown:
            raise UserError(
                f"{self.test.spec!r} has images of {counted(len(unknown), 'class')} that {self.train.spec!r} has none "
                f"of: {', '.join(unknown[:5])}.",
                "Classes are matched by the names of their folders.",
            )
        train_index = {name: index for index, name in enumerate(self.train.classes)}
        by_test_class = np.array([train_index.get(name, -1) for name in self.test.classes], dtype=np.int64)
        return np.asarray(by_test_class[self.test.selected_labels], dtype=np.int64)

    def labelled_splits(self, config: EvaluateConfig) -> list[Split]:
        """The splits that were given, else random ones."""
        return (
            list(self.splits)
            if self.splits is not None
            else draw_splits(self.train, config.frozen_shots, config.splits)
        )

    def choosing(self) -> Source:
        """The images that everything is chosen on.

        Raises:
            UserError: nothing was held out, or it has no labels.
        """
        if self.holdout is None or self.holdout.labels is None or not len(self.holdout):
            raise UserError("Something is to be chosen on held-out images, but there are none.", "Give --holdout 0.1.")
        return self.holdout

    def check(self, config: EvaluateConfig) -> None:
        """Raise what is wrong with labels, splits or held-out images before an image is read."""
        self.test_labels()
        if config.draws_tasks or any(name in FEW_SHOT for name in config.frozen_protocols):
            self.labelled_splits(config)
        if config.chooses:
            held = self.choosing()
            if config.draws_tasks:
                holdout_tasks(held, 1)

    def readable(self, features: FeatureSets) -> tuple[Task, FeatureSets]:
        """Without the images that could not be read, whose features are NaN."""
        readable = {name: ~np.isnan(array[:, 0]) for name, array in features.items()}
        if all(mask.all() for mask in readable.values()):
            return self, features
        if self.splits is not None:
            raise UserError(
                f"{int((~readable['train']).sum())} images of {self.train.spec!r} cannot be read, so lists of labelled "
                "images would not mean what they say.",
                "Mend or remove them.",
            )
        sources = {name: source.subset(source.keys[readable[name]]) for name, source in self.sources.items()}
        counts = {source.spec: int((~readable[name]).sum()) for name, source in self.sources.items()}
        announce("Unreadable and left out: " + ", ".join(f"{n} images of {spec}" for spec, n in counts.items() if n))
        task = replace(self, train=sources["train"], test=sources["test"], holdout=sources.get("holdout"))
        return task, {name: array[readable[name]] for name, array in features.items()}
