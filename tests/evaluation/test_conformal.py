"""Sets of classes that hold the right one as often as was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layergraft.errors import UserError
from layergraft.evaluation.conformal import check_error, set_threshold, sets


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("count", [3, 19, 30, 100])
def test_the_threshold_is_the_quantile_of_the_scores(count: int, error: float) -> None:
    """Of 1 - p at ceil((n + 1)(1 - error)) / n (Sadinle et al. 2019; MAPIE 1.6 has the same sets)."""
    right = np.random.default_rng(count).random(count)
    level = math.ceil((count + 1) * (1 - error) - 1e-9) / count
    score = np.inf if level > 1 else np.quantile(1 - right, level, method="inverted_cdf")
    assert 1 - set_threshold(right, error) == pytest.approx(min(score, 1.0))


def test_sets_hold_the_class_as_often_as_promised() -> None:
    """Over many draws, of rows that are like the others, no seldomer, and by one in n + 1 oftener at most."""
    random = np.random.default_rng(0)
    held = []
    for _ in range(600):
        known = random.dirichlet(np.ones(4), 31)
        classes = np.array([random.choice(4, p=row) for row in known])
        right = known[np.arange(31), classes]
        held.append(sets(known[30:], set_threshold(right[:30], 0.1))[0, classes[30]])
    assert 0.88 < np.mean(held) < 0.95


def test_too_few_labels_promise_nothing() -> None:
    assert set_threshold(np.full(8, 0.9), 0.1) == 0.0
    assert sets(np.array([[1.0, 0.0]]), 0.0).all()
    for error in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(UserError, match="above 0 and below 1"):
            check_error(error)
