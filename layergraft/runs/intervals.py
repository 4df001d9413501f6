"""95 % intervals of an accuracy: what the choice of test images, and of labelled images, leaves open."""

from __future__ import annotations

import math
from functools import cache

Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
FEW_TEST_IMAGES = 100


def wilson(value: float, n_test: int) -> tuple[float, float]:
    """Give the Wilson score interval of an accuracy (Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1).

    Args:
        value: accuracy in percent.
        n_test: classified images.

    Returns:
        (low, high) in percent. It includes the sampling of the test images, not that of the labelled ones.
    """
    if n_test < 1 or not math.isfinite(value):
        return 0.0, 100.0
    share, z2 = value / 100, Z**2 / n_test
    center = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / n_test + z2 / (4 * n_test)) / (1 + z2)
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)


def interval(value: float, n_test: int, std: float | None = None, n_splits: int = 1) -> tuple[float, float]:
    """Give the interval of a mean accuracy over random splits that are tested on the same images.

    Two parts are combined by the square-and-add rule for independent errors (Newcombe 1998; Zou and Donner 2008):
    Wilson's interval at the mean accuracy, for the test images, and Student's interval of the mean, for the splits.
    It is conservative: an image that some splits get right varies less than one that is right or wrong. A bootstrap
    over images and splits would be narrower, but has no width at all where every prediction is right.

    Args:
        value: mean accuracy in percent.
        n_test: classified images.
        std: standard deviation over the splits (n - 1); None for a single split.
        n_splits: how many there are.

    Returns:
        (low, high) in percent.
    """
    low, high = wilson(value, n_test)
    if std is None or n_splits < 2:
        return low, high
    half = student(n_splits - 1) * std / math.sqrt(n_splits)
    return max(0.0, value - math.hypot(value - low, half)), min(100.0, value + math.hypot(high - value, half))


@cache
def student(freedom: int) -> float:
    """Student's t that 95 % of a sample's t lie within (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).

    Args:
        freedom: degrees of freedom, a whole number, for which the distribution is a finite sum.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The part of a sample's t that is nearer to zero than tan(angle) * sqrt(freedom)."""
    odd = freedom % 2
    square = math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    terms = [term] if freedom > 1 else []
    for power in range(2 + odd, freedom - 1, 2):
        term *= square * (power - 1) / power
        terms.append(term)
    total = math.sin(angle) * math.fsum(terms)
    return 2 / math.pi * (angle + total) if odd else total
