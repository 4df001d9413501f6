"""Split a source into images that train and images that every choice is made on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import ClassIds, Source


def _first_of_each_class(labels: ClassIds, count: int) -> npt.NDArray[np.int64]:
    """Deal the classes in turn: the first of each, then the second of each, ... until there are `count`.

    Half of a small class stays, as long as other classes have enough.

    Args:
        labels: class of each image in a random order, of shape (N,).
        count: how many are dealt.

    Returns:
        Their places in that order, of shape (count,).
    """
    narrow = labels.astype(np.uint16) if labels.max() < 2**16 else labels  # 16 bits sort several times faster
    by_class = np.argsort(narrow, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    free = sizes // 2 if (sizes // 2).sum() >= count else sizes
    in_round = np.cumsum(np.bincount(free)[::-1])[::-1][1:]  # classes that have at least 1, 2, ... free images
    rounds = int(np.searchsorted(np.cumsum(in_round), count)) + 1
    dealt = np.minimum(free, rounds)
    rank = np.arange(dealt.sum()) - np.repeat(np.cumsum(dealt) - dealt, dealt)
    near: npt.NDArray[np.int64] = by_class[np.repeat(starts, dealt) + rank]
    return near[np.lexsort((near, rank))[:count]]


def split_holdout(source: Source, holdout: int | float, seed: int) -> tuple[Source, Source]:
    """Split a source.

    Args:
        source: the training source.
        holdout: a count, or a fraction below 1; capped at a fifth of the source.
        seed: the recipe's seed.

    Returns:
        (training images, held-out images), both in the source's order; stratified by class where there are labels.
    """
    wanted = round(holdout * len(source)) if 0 < holdout < 1 else int(holdout)
    count = min(wanted, len(source) // 5)
    random = Randomness(seed=seed, scope="holdout")
    if source.labels is None:
        chosen = random.permutation("order", source.keys, 0, first=count)
    elif count:
        order = random.permutation("order", source.keys, 0)
        chosen = order[_first_of_each_class(source.labels[source.keys[order]], count)]
    else:
        chosen = np.empty(0, dtype=np.int64)
    held = np.zeros(len(source), dtype=bool)
    held[chosen] = True
    return source.subset(source.keys[~held]), source.subset(source.keys[held])
