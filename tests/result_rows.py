"""Rows of results.json, of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from layergraft.runs.results import ResultRow

PLAIN: dict[str, Any] = {
    "encoder": "graft",
    "source": "s",
    "test": "t",
    "protocol": "logistic",
    "variant": "published",
    "shots": "5",
    "split": "0",
    "pooling": "cls",
    "metric": "top1",
    "value": 50.0,
    "n_train": 50,
    "n_test": 200,
    "chosen": {},
    "seconds": 0.0,
    "seed": 0,
}


def result_row(**changes: Any) -> ResultRow:
    """A row without an interval; `with_interval` gives it one."""
    return ResultRow(**(PLAIN | changes))
