"""Intervals of an accuracy against statsmodels' definition, simulations and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from layergraft.runs.intervals import interval, student, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 3), (3, 3), (1, 3), (50, 100), (4321, 5000), (0, 1)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(100 * hits / n, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_three_images_say_little() -> None:
    low, high = interval(0.0, 3, std=0.0, n_splits=5)
    assert (low, round(high, 1)) == (0.0, 56.1)


@pytest.mark.parametrize(("n_test", "splits"), [(30, 2), (30, 10), (300, 3), (300, 20)])
def test_at_least_95_of_100_intervals_hold_the_accuracy(n_test: int, splits: int) -> None:
    """Images differ in difficulty, splits in quality: both are drawn anew for each interval."""
    rng = np.random.default_rng(0)
    truth = 70.0
    held = 0
    for _ in range(400):
        difficulty = rng.normal(0, 20, size=n_test)
        quality = rng.normal(0, 4, size=(splits, 1))
        hits = rng.random((splits, n_test)) * 100 < np.clip(truth + difficulty + quality, 0, 100)
        values = 100 * hits.mean(axis=1)
        low, high = interval(float(values.mean()), n_test, float(values.std(ddof=1)), splits)
        held += low <= truth <= high
    assert held >= 0.93 * 400  # three standard errors below 95 %


def test_students_t_is_scipys() -> None:
    special = pytest.importorskip("scipy.special")
    for freedom in (*range(1, 60), 99, 100, 1000, 9999):
        assert student(freedom) == pytest.approx(special.stdtrit(freedom, 0.975), rel=1e-12)
