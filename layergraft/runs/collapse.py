"""Signs, in what was measured while training, of features that say little."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from layergraft.config.recipe import MonitorConfig


def collapse_warnings(config: MonitorConfig, numbers: Mapping[str, Any], width: int | None) -> list[str]:
    """Sentences about features that say little: all images alike, or all along few directions.

    Args:
        config: from where on a number is worth a word.
        numbers: a row of the metrics.
        width: of the features; None where it is not known.
    """
    warnings = []
    if numbers.get("nonfinite_features"):
        warnings.append(
            f"the features of {numbers['nonfinite_features']} images are not finite: weights are too large."
        )
    # A number that was not finite is null in a row that was read: no comparison with NaN is true.
    spread, rankme = (math.nan if (n := numbers.get(key)) is None else n for key in ("feature_std", "rankme"))
    part = spread * (width or float("inf")) ** 0.5
    if part < config.min_feature_std:
        warnings.append(f"the features of all images are nearly alike (feature_std {part:.3f} of an even spread).")
    if rankme < config.min_rankme:
        warnings.append(f"the features have collapsed to few directions (RankMe {rankme:.2f}).")
    return warnings
