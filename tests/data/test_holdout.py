"""Which images are held out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from layergraft.data.sources.holdout import deal_classes, split_holdout
from layergraft.data.sources.open import open_source


@pytest.mark.parametrize("seed", range(40))
def test_classes_are_dealt_in_turn(seed: int) -> None:
    """Against a loop over the images; some classes are empty or small."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, random.integers(1, 9), random.integers(1, 80))
    sizes, seen = Counter(labels.tolist()), Counter[int]()
    turns, spare = [], []
    for place, label in enumerate(labels.tolist()):
        turns.append((seen[label], place))
        if seen[label] < sizes[label] // 2:
            spare.append((seen[label], place))
        seen[label] += 1
    for count in {1, -(-len(labels) // 5), len(labels)}:
        wanted = spare if len(spare) >= count else turns
        assert deal_classes(labels, count, "class").tolist() == [place for _, place in sorted(wanted)[:count]]


def counts(sizes: list[int], count: int, seed: int = 0) -> list[int]:
    """How many of each class are dealt in proportion."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    dealt = deal_classes(labels, count, "proportion")
    assert len(set(dealt.tolist())) == len(dealt)
    return np.bincount(labels[dealt], minlength=len(sizes)).tolist()


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([1000, 300, 20], 264, [200, 60, 4]),
        ([1000, 300, 20], 66, [50, 15, 1]),
        ([1000, 300, 3], 13, [9, 3, 1]),  # one of three at least
        ([1000, 300, 2, 1], 66, [51, 15, 0, 0]),
        ([5, 3, 3], 2, [1, 1, 0]),  # fewer than classes: the larger ones first, of equal ones one
        ([2, 1, 1, 1], 4, [1, 0, 0, 0]),  # no class is left without an image
        ([0, 40, 0, 60], 10, [0, 4, 0, 6]),
        ([10, 10, 10], 6, [2, 2, 2]),
    ],
)
def test_each_class_gives_its_share(sizes: list[int], count: int, expected: list[int]) -> None:
    for seed in range(5):
        found = counts(sizes, count, seed)
        assert sorted(found) == sorted(expected) if sizes == [5, 3, 3] else found == expected


@pytest.mark.parametrize("seed", range(30))
def test_shares_are_within_one_image_and_no_class_is_emptied(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [*random.integers(0, random.choice([4, 30, 1000]), random.integers(2, 30)).tolist(), 5]
    count = int(random.integers(1, sum(sizes) // 5 + 1))
    found = counts(sizes, count, seed)
    assert sum(found) == min(count, sum(max(0, size - 1) for size in sizes))
    assert all(held < size for held, size in zip(found, sizes, strict=True) if size)
    if count >= sum(size >= 3 for size in sizes):
        assert all(held for held, size in zip(found, sizes, strict=True) if size >= 3)
    plain = [count * size / sum(sizes) for size in sizes]
    if min(plain) >= 1:  # neither the one at least nor small classes decide
        assert all(abs(held - share) <= 1 for held, share in zip(found, plain, strict=True))


@pytest.mark.parametrize("wanted", [2000, 1003, 7, 0.05])
def test_classes_of_one_size_are_dealt_as_ever(wanted: int | float) -> None:
    source = open_source("builtin:fashion-canvas")
    for by_size, by_class in zip(
        split_holdout(source, wanted, 4), split_holdout(source, wanted, 4, "class"), strict=True
    ):
        assert np.array_equal(by_size.keys, by_class.keys)


def test_labels_that_are_names_are_no_classes() -> None:
    source = open_source("builtin:fashion?shots=1")
    train, held = split_holdout(source, 2, 0)
    assert (len(train), len(held)) == (8, 2)
