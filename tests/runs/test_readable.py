"""Numbers as people read them: durations in two units, numbers in few digits."""

from __future__ import annotations

import pytest

from layergraft.runs.readable import counted, counted_shots, duration, short


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


@pytest.mark.parametrize(
    ("number", "thing", "text"),
    [
        (1, "label", "1 label"),
        (0, "label", "0 labels"),
        (4.5, "epoch", "4.5 epochs"),
        (1200, "test image", "1,200 test images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (3, "batch", "3 batches"),
    ],
)
def test_numbers_of_things(number: float, thing: str, text: str) -> None:
    assert counted(number, thing) == text


def test_numbers_of_labels_a_class() -> None:
    assert [counted_shots(shots) for shots in ("1", "5", "10%")] == ["1 shot", "5 shots", "10% labels"]
