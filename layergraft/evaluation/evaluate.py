"""Measure features: every protocol, number of shots and split that was asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from layergraft.config.recipe import EvaluateConfig
from layergraft.data.sources import Source
from layergraft.errors import UserError
from layergraft.evaluation import logistic
from layergraft.evaluation.features import Array, center_and_normalize, extract, pixels
from layergraft.evaluation.knn import knn_accuracy
from layergraft.evaluation.results import ResultRow, summarize
from layergraft.evaluation.splits import few_labels
from layergraft.models.vit import Encoder

KNN = {"k": 20, "temperature": 0.07}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Labels and what they are for.

    Args:
        train: labelled images.
        test: images to classify; their classes are matched by name.
        test_name: `test` of the result rows.
        seed: the run's seed.
    """

    train: Source
    test: Source
    test_name: str
    seed: int

    @classmethod
    def on_holdout(cls, train: Source, holdout: Source, seed: int) -> Task:
        """Labels from training images, held-out images to classify: what plans are compared on, never the test set."""
        return cls(train=train, test=holdout, test_name="holdout", seed=seed)

    def test_labels(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Class of each test image, as indices into the training classes."""
        unknown = sorted(set(self.test.classes) - set(self.train.classes))
        if unknown:
            raise UserError(
                f"{self.test.spec!r} has classes that {self.train.spec!r} does not: {', '.join(unknown[:5])}.",
                "Classes are matched by the names of their folders.",
            )
        index = np.array([self.train.classes.index(name) for name in self.test.classes], dtype=np.int64)
        return np.asarray(index[self.test.own_labels], dtype=np.int64)


def evaluate_features(
    task: Task, config: EvaluateConfig, encoder: str, pooling: str | None, train: Array, test: Array
) -> list[ResultRow]:
    """All protocols on one set of features."""
    labels, truth = task.train.own_labels, task.test_labels()
    targets, classes = torch.from_numpy(labels), len(task.train.classes)
    rows: list[ResultRow] = []

    def row(
        protocol: str,
        variant: str | None,
        shots: str,
        split: int,
        value: float,
        n: int,
        began: float,
        chosen: dict[str, object],
    ) -> ResultRow:
        return ResultRow(
            encoder=encoder,
            source=task.train.spec,
            test=task.test_name,
            protocol=protocol,
            variant=variant,
            shots=shots,
            split=str(split),
            pooling=pooling,
            metric="top1",
            value=value,
            n_train=n,
            n_test=len(truth),
            chosen=chosen,
            seconds=time.perf_counter() - began,
            seed=task.seed,
        )

    if "knn" in config.protocols:
        began = time.perf_counter()
        value = knn_accuracy(train, labels, test, truth)
        rows.append(row("knn", None, "100%", 0, value, len(train), began, dict(KNN)))
    if "logistic" in config.protocols:
        x, z = (torch.from_numpy(center_and_normalize(part)).double() for part in (train, test))
        for variant in config.variants("logistic"):
            for shots in config.frozen_shots:
                splits = []
                for split in range(config.splits):
                    began = time.perf_counter()
                    chosen = few_labels(labels, task.train.keys, task.train.classes, shots, split)
                    strength, how = logistic.PUBLISHED_LAMBDA_N, "published"
                    if variant == "cv":
                        found = logistic.choose_lambda(x[chosen], labels[chosen], classes)
                        strength, how = (found, "folds over the shots") if found else (strength, "published, 1 shot")
                    weights = logistic.fit(x[chosen], targets[chosen], classes, strength)
                    value = logistic.accuracy(weights, z, truth)
                    note = {"lambda_n": strength, "by": how}
                    splits.append(row("logistic", variant, str(shots), split, value, len(chosen), began, dict(note)))
                rows += splits + summarize(splits)
    return rows


def evaluate_encoder(task: Task, config: EvaluateConfig, name: str, encoder: Encoder) -> list[ResultRow]:
    """All protocols and poolings on one encoder."""
    rows = []
    for pooling in config.pooling:
        train, test = (extract(encoder, source, pooling) for source in (task.train, task.test))
        rows += evaluate_features(task, config, name, pooling, train, test)
    return rows


def evaluate_pixels(task: Task, config: EvaluateConfig, size: int, channels: int) -> list[ResultRow]:
    """The same protocols on raw pixels."""
    train, test = (pixels(source, size, channels) for source in (task.train, task.test))
    return evaluate_features(task, config, "pixels", None, train, test)


def evaluate_encoders(task: Task, config: EvaluateConfig, encoders: Mapping[str, Encoder]) -> list[ResultRow]:
    """The pixels at the size of the first encoder, then every encoder.

    Args:
        task: labels, and what is classified; `Task.on_holdout` measures on held-out images.
        config: protocols, shots, splits.
        encoders: `encoder` of the rows -> encoder.

    Returns:
        The rows of results.json.
    """
    first = next(iter(encoders.values()))
    rows = evaluate_pixels(task, config, first.img_size, first.in_chans)
    for name, encoder in encoders.items():
        rows += evaluate_encoder(task, config, name, encoder)
    return rows
