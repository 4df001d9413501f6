"""Which labels a trained protocol sees, and what its test images are called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.evaluation.splits import few_labels, parse_shots
from layergraft.evaluation.task import Task
from layergraft.runs.readable import counted


def same_classes(train: Source, test: Source) -> Source:
    """The test images with the training images' numbers of classes; classes are matched by name."""
    if test.masks is not None and train.masks is not None and test.classes != train.classes:
        raise UserError(
            f"The masks of {test.spec!r} have {counted(len(test.classes), 'class')} and those of {train.spec!r} "
            f"{len(train.classes)}, or other names.",
            "Both need the same objectInfo150.txt or classes.txt.",
        )
    if test.labels is None or train.labels is None:
        return test
    task = Task(train=train, test=test, test_name=test.spec, seed=0)
    labels = np.full_like(test.labels, -1)
    labels[test.keys] = task.test_labels()
    return replace(test, labels=labels, classes=train.classes)


def few_images(source: Source, shots: int | str, split: int) -> Source:
    """The part of the training images whose labels, or masks, are used."""
    if source.masks is not None and source.labels is None:
        return few_masks(source, shots, split)
    return source.subset(source.keys[few_labels(source.selected_labels, source.keys, source.classes, shots, split)])


def few_masks(source: Source, shots: int | str, split: int) -> Source:
    """A fraction of the images with masks; a larger one of the same split holds a smaller one."""
    count, fraction = parse_shots(shots)
    if count is not None:
        raise UserError(
            f"`segment` was asked for {counted(count, 'shot')}, but its images have no classes.",
            "Use percentages: 10%.",
        )
    order = Randomness(seed=split, scope="shots").permutation("order", source.keys, 0)
    return source.subset(np.sort(source.keys[order[: max(1, round(fraction * len(order)))]]))
