"""Intervals and tests whose unit is the pre-training seed.

A seed's random splits are averaged before anything else, so that n is the number of networks that were trained, never
the number of times that one of them was measured. All intervals are 95 % intervals of Student's t.
"""

from __future__ import annotations

import importlib.util
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layergraft.errors import UserError

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 10_000


def distributions() -> Any:
    """The package `scipy.stats`, which not everyone has.

    Raises:
        UserError: it is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise UserError("The statistics of a study need SciPy.", "pip install 'layergraft[studies]'.") from None
    return stats


def check_scores() -> None:
    """Find out before hours of training whether scores without labels can be measured.

    Raises:
        UserError: scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("Scores without labels need scikit-learn.", "pip install 'layergraft[studies]'.")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and its 95 % confidence interval.

    Args:
        mean: over seeds.
        low: end of the 95 % interval; None where there is one seed.
        high: its other end.
        seeds: that were averaged.
        values: of each seed.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: list[int]
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class Effect(Interval):
    """A mean that is compared with zero.

    Args:
        p: two-sided; None where there is one seed, or no spread at all.
        p_holm: corrected for all tests of its family.
        power: of a test with as many seeds as there were, if mean and spread are the true ones; None where p is.
        seeds_needed: with so many the power reaches 80 %; one more than `MOST_SEEDS` stands for all above.
    """

    p: float | None
    p_holm: float | None = None
    power: float | None = None
    seeds_needed: int | None = None


def interval(by_seed: Mapping[int, float]) -> Interval:
    """Mean and interval of values of at least one seed."""
    tested = effect(by_seed)
    return Interval(mean=tested.mean, low=tested.low, high=tested.high, seeds=tested.seeds, values=tested.values)


def effect(by_seed: Mapping[int, float]) -> Effect:
    """Mean, interval and the one-sample t-test against zero of values of at least one seed."""
    seeds = sorted(by_seed)
    values = [by_seed[seed] for seed in seeds]
    mean = float(np.mean(values))
    low: float | None = None
    high: float | None = None
    p: float | None = None
    if len(values) > 1 and np.ptp(values) == 0:  # as of pixels, which no seed changes
        low = high = mean
    elif len(values) > 1:
        test = distributions().ttest_1samp(values, 0.0)
        ends = test.confidence_interval(LEVEL)
        low, high, p = float(ends.low), float(ends.high), float(test.pvalue)
    return Effect(mean=mean, low=low, high=high, seeds=seeds, values=values, p=p)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Effect | None:
    """The difference first − second, paired by seed; None where they have no seed in common."""
    common = first.keys() & second.keys()
    return effect({seed: first[seed] - second[seed] for seed in common}) if common else None


def trend(by_seed: Mapping[int, Sequence[float]]) -> Effect:
    """Does a value rise over depth? The slope of each seed's least-squares line, tested against zero over seeds.

    Values of one network's blocks depend on each other; a number that sums up each network and a t-test of those does
    not mind (Matthews, Altman, Campbell and Royston, Analysis of serial measurements in medical research, BMJ 1990).

    Args:
        by_seed: seed -> the value in each block, from the input on.

    Returns:
        The slope, per block.
    """
    line = distributions().linregress
    return effect({seed: float(line(range(len(values)), values).slope) for seed, values in by_seed.items()})


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that keep the chance of any false discovery below the level (Holm 1979, Scand. J. Statist. 6).

    Args:
        p_values: of one family; None where there was no test, which does not count.

    Returns:
        In the same order, at most 1.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = highest
    return adjusted


def power(size: float, seeds: int, alpha: float) -> float:
    """Power of the two-sided one-sample t-test: how often it finds an effect of this size.

    Args:
        size: true mean over true standard deviation.
        seeds: at least two.
        alpha: level of the test.
    """
    stats = distributions()
    limit, shift = stats.t.ppf(1 - alpha / 2, seeds - 1), abs(size) * seeds**0.5
    return float(stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift))


def seeds_needed(size: float, alpha: float) -> int:
    """The fewest seeds with which the t-test has a power of 80 %; `MOST_SEEDS` + 1 where that is not enough.

    Args:
        size: as in `power`.
        alpha: likewise.
    """
    return bisect_left(range(MOST_SEEDS + 1), POWER, lo=2, key=lambda seeds: _power_or_more(size, seeds, alpha))


def _power_or_more(size: float, seeds: int, alpha: float) -> float:
    """The power, 1 where the noncentral distribution lies so far out that its tail is not computed."""
    found = power(size, seeds, alpha)
    return found if np.isfinite(found) else 1.0


def family(tests: Sequence[Effect]) -> list[Effect]:
    """The same tests with their p-values corrected for all of them, and how many seeds would decide each."""
    alpha = (1 - LEVEL) / max(1, sum(test.p is not None for test in tests))
    corrected = []
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        if p is None:
            corrected.append(test)
            continue
        spread = float(np.std(test.values, ddof=1))
        size = test.mean / spread if spread else float("inf")
        found = _power_or_more(size, len(test.values), alpha)
        corrected.append(replace(test, p_holm=p, power=found, seeds_needed=seeds_needed(size, alpha)))
    return corrected
