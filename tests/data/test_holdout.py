"""Which images are held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from layergraft.data.sources.holdout import deal_classes, split_holdout
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source


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


def tiles(files: list[int], classes: list[int] | None) -> Source:
    """A source of as many tiles of each file as are given, -1 of one that could not be cut."""
    source = open_source("builtin:fashion-canvas")
    counts = [abs(count) for count in files]
    numbers = np.repeat([n if count > 0 else -1 for n, count in enumerate(files)], counts)
    labels = None if classes is None else np.repeat(np.array(classes, dtype=np.int32), counts)
    keys = np.arange(len(numbers), dtype=np.int64)
    names = [] if classes is None else [str(number) for number in sorted(set(classes))]
    return replace(source, keys=keys, labels=labels, classes=names, files=numbers.astype(np.int32), spec="slides")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [None, [0, 1] * 10])
def test_tiles_of_a_file_are_not_parted(seed: int, classes: list[int] | None) -> None:
    source = tiles([10, 20] * 10, classes)
    train, held = split_holdout(source, 0.2, seed)
    assert source.files is not None
    assert not set(source.files[train.keys]) & set(source.files[held.keys])
    assert len(train) + len(held) == len(source)
    assert 0.1 < len(held) / len(source) < 0.3
    if classes:
        assert set(held.selected_labels) == {0, 1}
    assert "all tiles of 4 images are held out" in train.remarks[-1]


@pytest.mark.parametrize(("files", "classes"), [([50], None), ([50, 50], [0, 1]), ([90, 5, 5], [0, 1, 1])])
def test_too_few_files_are_parted_and_that_is_said(files: list[int], classes: list[int] | None) -> None:
    train, held = split_holdout(tiles(files, classes), 0.2, 0)
    assert len(held) == 0.2 * sum(files)
    assert "too few images" in train.remarks[-1]


def test_a_file_that_could_not_be_cut_is_not_held_out() -> None:
    for seed in range(10):
        _, held = split_holdout(tiles([10, 10, -1, -1, 10, 10, -1, -1], [0, 0, 0, 0, 1, 1, 1, 1]), 0.2, seed)
        assert len(held) >= 4
