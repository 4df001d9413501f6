"""The demo as a newcomer runs it, held to what it promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from layergraft.runs.layout import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(demo: Run) -> list[dict[str, object]]:
    assert demo.report.stat().st_size < 5_000_000
    return list(json.loads(demo.results.read_text()))


def differences(rows: list[dict[str, object]], shots: str, other: str) -> np.ndarray:
    """The grafted encoder minus another, paired over the splits."""
    values: dict[str, dict[str, float]] = {"graft": {}, other: {}}
    for row in rows:
        if row["protocol"] == "logistic" and row["shots"] == shots and row["encoder"] in values:
            values[str(row["encoder"])][str(row["split"])] = float(str(row["value"]))
    return np.array([values["graft"][str(split)] - values[other][str(split)] for split in range(20)])


@pytest.mark.parametrize(("shots", "bar"), [("1", 10.0), ("5", 13.0), ("10", 12.0), ("50", 9.5)])
def test_margin_over_pixels(rows: list[dict[str, object]], shots: str, bar: float) -> None:
    assert differences(rows, shots, "pixels").mean() >= bar


@pytest.mark.parametrize("shots", ["1", "5", "10", "50"])
@pytest.mark.parametrize("other", ["random", "mae", "scratch"])
def test_beats_what_it_is_made_of(rows: list[dict[str, object]], shots: str, other: str) -> None:
    difference = differences(rows, shots, other)
    assert difference.mean() - 2 * difference.std(ddof=1) / len(difference) ** 0.5 > 0


def test_knn(rows: list[dict[str, object]]) -> None:
    knn = {str(row["encoder"]): float(str(row["value"])) for row in rows if row["protocol"] == "knn"}
    assert knn["graft"] > max(knn["random"], knn["mae"], knn["scratch"])
