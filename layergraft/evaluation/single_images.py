"""Few-shot tasks without labels: each image is a class of its own, and random views of it are its examples.

An encoder, or a penalty, that is good at telling single images apart by few views of each is good at telling classes
apart by few images of each (docs/plans.md, docs/protocols.md). The idea of surrogate classes is Exemplar-CNN's
(Dosovitskiy et al., NeurIPS 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layergraft.config.data import ViewConfig
from layergraft.config.encoder import ImageSize
from layergraft.config.objectives import MocoConfig
from layergraft.data.arrays import Labels, Pixels
from layergraft.data.augment import fixed_view, random_view
from layergraft.data.decode import ReadOptions, Reduction
from layergraft.data.randomness import Randomness
from layergraft.data.reading import read_as_trained
from layergraft.data.sources.file_state import Stamp
from layergraft.data.sources.source import Source
from layergraft.data.view_parameters import DRAWS
from layergraft.errors import UserError
from layergraft.evaluation.features import Array, center_and_normalize
from layergraft.evaluation.few_shot import FEW_SHOT, FewShotProtocol, exact
from layergraft.evaluation.selection import Fold, scores, strongest_of_the_best

# The first view of MoCo v3, with crops that keep at least a fifth of the image.
CONTRASTIVE = ViewConfig(
    crop_scale=(0.2, 1.0), jitter=MocoConfig().views["first"].jitter, gray=MocoConfig().views["first"].gray, blur=0.1
)
TASKS = 10  # each of other images
USUAL_WAYS, WAYS = 10, 20  # images of a task: where nobody knows of classes, and at most
SHOTS, TESTED = 10, 10  # views of an image that are examples, at most, and those that are to be recognised
VIEWS = SHOTS + TESTED
_KEPT = 64  # images, so that one is not decoded for each of its views


class ViewedImages:
    """Random views of the images of a source as images: view v of image i has the number `i * VIEWS + v`.

    Args:
        source: the images.
        size: of the views.
        view: the augmentation.
        random: where its random numbers come from.
    """

    def __init__(self, source: Source, size: ImageSize, view: ViewConfig, random: Randomness) -> None:
        self.source, self.size, self.view = source, size, view
        self.draws = random.uniform("views", np.arange(len(self)), 0, DRAWS)
        self._square: Callable[[int, int], Pixels] = lru_cache(_KEPT)(self._load_square)
        self._file: Callable[[int], bytes] = lru_cache(1)(self._read_file)

    def __len__(self) -> int:
        return VIEWS * len(self.source)

    def _load_square(self, row: int, channels: int) -> Pixels:
        return fixed_view(self.source.images.load(int(self.source.keys[row]), channels), self.size)

    def _read_file(self, row: int) -> bytes:
        return self.source.images.read(int(self.source.keys[row]))

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        return random_view(self._square(index // VIEWS, channels), self.view, self.size, self.draws[index])

    def read(self, index: int) -> bytes:
        """What the view is made of, which tells it from all others: the image's file, and how it is seen."""
        seen: bytes = repr((self.size, self.view)).encode() + self.draws[index].tobytes()
        return self._file(index // VIEWS) + seen

    def name(self, index: int) -> str:
        return f"view {index % VIEWS} of {self.source.images.name(int(self.source.keys[index // VIEWS]))}"

    def stamp(self, keys: Labels) -> Stamp | None:
        stamp = self.source.images.stamp(self.source.keys[np.unique(keys // VIEWS)])
        if stamp is None:
            return None
        digest = hashlib.blake2b(repr((stamp.text, self.size, self.view)).encode(), digest_size=16)
        digest.update(self.draws[keys].tobytes())
        return replace(stamp, text=digest.hexdigest())


def single_images(
    source: Source,
    size: ImageSize,
    reads: ReadOptions,
    classes: int = USUAL_WAYS,
    seed: int = 0,
    view: ViewConfig = CONTRASTIVE,
) -> Source:
    """Views of random images, labelled by which image of its task each shows.

    Args:
        source: the images; labels are not looked at.
        size: of the views: the encoder's.
        reads: how it reads images where the source leaves that open.
        classes: images of a task, as far as there are so many and `WAYS` allows.
        seed: of images and views.
        view: the augmentation; it should change what is not to matter, as that of the contrastive loss does.

    Raises:
        UserError: the source has fewer than two images.
    """
    if len(source) < 2:
        raise UserError(f"{source.spec!r} has {len(source)} image: views tell at least two apart.")
    source, random = read_as_trained(source, reads), Randomness(seed=seed, scope="single images")
    ways = min(classes, WAYS, len(source))
    tasks = min(TASKS, len(source) // ways)
    chosen = source.subset(source.keys[random.permutation("images", source.keys, 0, first=ways * tasks)])
    numbers = np.arange(len(chosen) * VIEWS)
    return Source(
        spec=source.spec,
        images=ViewedImages(chosen, size, view, random),
        keys=numbers,
        labels=(numbers // VIEWS % ways).astype(np.int32),
        classes=[f"image {number}" for number in range(ways)],
        options=source.options,
    )


def single_image_tasks(views: Source, shots: int) -> tuple[int, list[Fold]]:
    """Few-shot tasks over views of single images.

    Args:
        views: of `single_images`, perhaps without those that cannot be read.
        shots: views of each image that are examples; at most `SHOTS` are used.

    Returns:
        (shots of a task, the tasks).
    """
    shots = min(shots, SHOTS)
    image, view = np.divmod(views.keys, VIEWS)
    task = image // len(views.classes)
    folds = [
        (np.flatnonzero((task == number) & (view < shots)), np.flatnonzero((task == number) & (view >= SHOTS)))
        for number in np.unique(task)
    ]
    return shots, folds


def strength_without_labels(
    protocol: FewShotProtocol, views: Source, features: Tensor, shots: int
) -> tuple[float, dict[str, Any]]:
    """The penalty that is best at recognising single images by few views.

    Args:
        protocol: whose penalty is chosen.
        views: of `single_images`.
        features: of the views, prepared, of shape (N, D).
        shots: examples of a class.

    Returns:
        (lambda * n, `chosen` of the result rows).
    """
    shots, tasks = single_image_tasks(views, shots)
    accuracies = scores(protocol, protocol.strengths, features, views.selected_labels, len(views.classes), tasks)
    strength = strongest_of_the_best(protocol.strengths, accuracies)
    return strength, {"lambda_n": strength, "by": "views of single images", "tasks": len(tasks), "task_shots": shots}


def single_image_accuracy(views: Source, features: Array, shots: Sequence[int]) -> dict[str, float]:
    """How well single images are recognised by few views of each: a score of an encoder that needs no label.

    Args:
        views: of `single_images`.
        features: of the views, of shape (N, D); NaN where one cannot be read.
        shots: numbers of views that are examples, up to `SHOTS`.

    Returns:
        Number of examples -> top-1 accuracy in percent of logistic regression with the published penalty.
    """
    readable = ~np.isnan(features[:, 0])
    views, features = views.subset(views.keys[readable]), features[readable]
    protocol, rows = FEW_SHOT["logistic"], exact(torch.from_numpy(center_and_normalize(features)))
    found = {}
    for count in shots:
        tasks = single_image_tasks(views, count)[1]
        labels, ways = views.selected_labels, len(views.classes)
        found[str(count)] = float(scores(protocol, [protocol.fixed], rows, labels, ways, tasks)[0])
    return found
