"""Split a source into images that train and images that every choice is made on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from layergraft.config.data import HoldoutBy
from layergraft.data.arrays import ClassIds
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source

MOST_OF_FILES = 0.4  # of all tiles may be held out to keep files whole
ALWAYS_FROM = 3  # images of a class, of which one at least is held out


def deal_classes(labels: ClassIds, count: int, by: HoldoutBy) -> npt.NDArray[np.int64]:
    """Deal `count` images of labelled ones.

    Each image has a turn, and those with the lowest turns are dealt; of equal ones the first in the given order.

    Args:
        labels: class of each image in a random order, of shape (N,).
        count: how many are dealt.
        by: `proportion`: image j of a class of n has the turn (j + 1/2) / n (Webster's method), so that each class
            gives its share, rounded; a class of three or more gives one at least, and each keeps one at least. `class`:
            image j has the turn j, so that all classes give as many; half of a small class stays, as long as the others
            have enough.

    Returns:
        Their positions in the given order, of shape (count,), or fewer where classes of one image have nothing to give.
    """
    narrow = labels.astype(np.uint16) if labels.max() < 2**16 else labels  # 16 bits sort several times faster
    by_class = np.argsort(narrow, kind="stable")
    sizes = np.bincount(labels)
    # Number j within its class of each image of `by_class`, and the size of that class.
    number = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    size = np.repeat(sizes, sizes)
    if by == "class":
        most = size // 2 if (sizes // 2).sum() >= count else size
        turn = number.astype(np.float64)
    else:
        most = size - 1
        turn = (2 * number + 1) / size  # a single rounded division: the same on every machine
        turn -= 2 * ((number == 0) & (size >= ALWAYS_FROM))  # before all others, the larger classes first
    free = np.flatnonzero(number < most)
    if count < len(free):  # only those up to the last turn that is dealt need sorting
        turns = turn[free]
        free = free[turns <= np.partition(turns, count - 1)[count - 1]]
    position: npt.NDArray[np.int64] = by_class[free]
    return position[np.lexsort((position, turn[free]))[:count]]


def _deal_files(source: Source, files: ClassIds, count: int, by: HoldoutBy, random: Randomness) -> ClassIds | None:
    """Deal files, whose tiles are about `count`, and one of each class of three files at least; None of too few.

    Args:
        source: tiles.
        files: number of the file of each of its keys.
        count: how many tiles are wanted.
        by: see `deal_classes`.
        random: gives the order of files.
    """
    numbers, first = np.unique(files, return_index=True)
    numbers, first = numbers[numbers >= 0], first[numbers >= 0]  # without those that could not be cut
    if not len(numbers):
        return None
    order = random.permutation("files", numbers, 0)
    wanted = max(1, round(count * len(numbers) / len(source)))
    if source.labels is None or (source.labels[source.keys[first]] < 0).any():
        dealt = order[:wanted]
    else:
        labels = source.labels[source.keys[first]][order]
        classes = len(np.unique(labels))
        positions = deal_classes(labels, max(wanted, classes), by)
        if len(np.unique(labels[positions])) < classes:
            return None
        dealt = order[positions]
    chosen: ClassIds = numbers[dealt]
    return chosen if 0 < np.isin(files, chosen).mean() <= MOST_OF_FILES else None


def split_holdout(
    source: Source, holdout: int | float, seed: int, by: HoldoutBy = "proportion"
) -> tuple[Source, Source]:
    """Split a source.

    Args:
        source: the training source.
        holdout: a count, or a fraction below 1; capped at a fifth of the source.
        seed: the recipe's seed.
        by: how many of each class, where there are labels; see `deal_classes`.

    Returns:
        (training images, held-out images), both in the source's order. A function of seed, sample keys and labels.
        Tiles of one file are not parted, as long as there are files enough; a remark of the first says which it is.
    """
    wanted = round(holdout * len(source)) if 0 < holdout < 1 else int(holdout)
    count = min(wanted, len(source) // 5)
    random = Randomness(seed=seed, scope="holdout")
    if count and source.files is not None:
        files = _deal_files(source, source.files[source.keys], count, by, random)
        if files is not None:
            held = np.isin(source.files[source.keys], files)
            said = f"{source.spec}: all tiles of {len(files)} image{'s' * (len(files) != 1)} are held out."
            train = replace(source.subset(source.keys[~held]), remarks=(*source.remarks, said))
            return train, source.subset(source.keys[held])
        said = f"{source.spec}: too few images to hold out whole ones: tiles of one image train and are held out."
        source = replace(source, remarks=(*source.remarks, f"{said} Name other images with --test."))
    if source.labels is None:
        chosen = random.permutation("order", source.keys, 0, first=count)
    elif count:
        order = random.permutation("order", source.keys, 0)
        dealt = deal_classes(source.labels[source.keys[order]], count, by)
        # Labels that are all different are names, not classes.
        chosen = order[dealt] if len(dealt) else order[:count]
    else:
        chosen = np.empty(0, dtype=np.int64)
    held = np.zeros(len(source), dtype=bool)
    held[chosen] = True
    return source.subset(source.keys[~held]), source.subset(source.keys[held])
