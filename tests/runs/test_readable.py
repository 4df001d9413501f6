"""Numbers as people read them: durations in two units, numbers in few digits."""

from __future__ import annotations

import pytest

from layergraft.runs.readable import duration, short


@pytest.mark.parametrize(("number", "text"), [(2.4e-5, "2.4e-5"), (477.2, "477"), (1e-12, "1e-12"), (0.0, "0")])
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.0004, "0.0004 s"),
        (2.44, "2.4 s"),
        (9.96, "10 s"),
        (59.7, "1 min"),
        (104.4, "1 min 44 s"),
        (3599.9, "1 h"),
        (3725.0, "1 h 2 min"),
        (7200.0, "2 h"),
        (86399.0, "1 d"),
        (864000.0, "10 d"),
        (273600.0, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
