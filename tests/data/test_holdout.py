"""Which images are held out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from layergraft.data.sources.holdout import _first_of_each_class


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
        assert _first_of_each_class(labels, count).tolist() == [place for _, place in sorted(wanted)[:count]]
