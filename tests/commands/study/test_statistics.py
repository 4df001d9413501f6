"""Against published numbers and closed forms."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

import layergraft
from layergraft.commands.study.statistics import (
    MOST_SEEDS,
    effect,
    family,
    holm,
    interval,
    paired,
    power,
    seeds_needed,
    trend,
)
from layergraft.errors import UserError

# Student's (1908) sleep data: extra hours under two drugs, of ten patients. R prints, for
# t.test(Pair(group1, group2) ~ 1): t = -4.0621, df = 9, p-value = 0.002833, interval -2.4598858 -0.7001142, mean -1.58.
FIRST = dict(enumerate((0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)))
SECOND = dict(enumerate((1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)))


def test_paired_difference_is_that_of_r() -> None:
    found = paired(FIRST, SECOND)
    assert found is not None
    assert found.mean == pytest.approx(-1.58)
    assert found.low == pytest.approx(-2.4598858, abs=1e-7)
    assert found.high == pytest.approx(-0.7001142, abs=1e-7)
    assert found.p == pytest.approx(0.002833, abs=5e-7)


def test_only_common_seeds_are_paired() -> None:
    found = paired({0: 1.0, 1: 5.0, 2: 3.0}, {2: 1.0, 1: 2.0, 7: 100.0})
    assert found is not None
    assert found.seeds == [1, 2]
    assert found.values == [3.0, 2.0]
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_interval_of_three_seeds() -> None:
    # The 97.5 % quantile of t with 2 degrees of freedom is 4.30265; the deviation of 1, 2, 3 is 1.
    found = interval({0: 1.0, 1: 2.0, 2: 3.0})
    assert found.mean == 2.0
    assert found.low is not None
    assert 2.0 - found.low == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)


def test_one_seed_has_no_interval_and_no_test() -> None:
    found = effect({3: 1.5})
    assert (found.mean, found.low, found.high, found.p) == (1.5, None, None, None)


def test_no_spread_is_an_interval_without_a_test() -> None:
    found = effect({0: 25.0, 1: 25.0})
    assert (found.low, found.high, found.p) == (25.0, 25.0, None)


def test_holm() -> None:
    # By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04, which may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_a_family_is_corrected_together() -> None:
    tests = family([effect({0: 1.0, 1: 2.0, 2: 3.0}), effect({0: 1.0, 1: 1.5, 2: 1.0})])
    first, second = tests
    assert first.p is not None
    assert second.p is not None
    assert first.p > second.p
    assert second.p_holm == pytest.approx(2 * second.p)
    assert first.p_holm == pytest.approx(max(first.p, 2 * second.p))


def test_power_is_that_of_gpower() -> None:
    """G*Power 3.1, t-test of matched pairs, two-sided, 5 %: 34, 15 and 199 pairs reach 80 %."""
    assert [seeds_needed(size, 0.05) for size in (0.5, 0.8, 0.2)] == [34, 15, 199]
    assert power(0.5, 34, 0.05) == pytest.approx(0.8077775, abs=1e-6)
    assert seeds_needed(0.0, 0.05) == MOST_SEEDS + 1
    assert seeds_needed(1e6, 0.05) == 2


def test_seeds_to_decide_are_those_of_the_familys_level() -> None:
    first = effect({0: 1.0, 1: 2.0, 2: 3.0})  # size 2
    alone, among = family([first])[0], family([first, effect({0: 1.0, 1: 5.0, 2: 3.0})])[0]
    assert alone.seeds_needed == seeds_needed(2.0, 0.05)
    assert among.seeds_needed == seeds_needed(2.0, 0.025)
    assert family([effect({0: 1.0})])[0].seeds_needed is None


def test_trend_of_lines() -> None:
    # Slopes 1, 2, 3: t = 2·√3 with 2 degrees of freedom, where p = 1 − t/√(2 + t²).
    found = trend({0: [0, 1, 2, 3], 1: [5, 7, 9, 11], 2: [-1, 2, 5, 8]})
    t = 2 * math.sqrt(3)
    assert found.values == pytest.approx([1, 2, 3])
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_trend_does_not_see_the_level() -> None:
    # A hump has no slope: by hand, Σ (x − 1.5)(y − 1) = −1.5·−1 + −0.5·1 + 0.5·1 + 1.5·−1 = 0.
    found = trend({0: [0, 2, 2, 0], 1: [10, 12, 12, 10]})
    assert found.mean == pytest.approx(0)


def test_without_scipy_a_study_says_so_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match="need SciPy"):
        layergraft.reproduce(scale="smoke", seeds=2, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()
