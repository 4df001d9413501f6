"""Rows of results.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from layergraft.runs.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number with its whole protocol.

    Args:
        encoder: stage name, `STAGE/momentum`, `random`, `pixels`, or the ENC as given.
        source: where labels come from.
        test: what was classified; `holdout` for held-out images.
        protocol: `knn`, `logistic`, …
        variant: of the protocol, or None.
        shots: `"5"`, `"1%"`, `"100%"`.
        split: `"0"`, ..., `"mean"`, `"std"` (n - 1).
        pooling: of the features; None for pixels.
        metric: `top1`.
        value: in percent.
        n_train: labelled images.
        n_test: classified images.
        chosen: what was chosen, and on what.
        seconds: fitting and testing.
        seed: the run's seed.
    """

    encoder: str
    source: str
    test: str
    protocol: str
    variant: str | None
    shots: str
    split: str
    pooling: str | None
    metric: str
    value: float
    n_train: int
    n_test: int
    chosen: dict[str, Any]
    seconds: float
    seed: int

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two rows the same measurement."""
        measured = (self.encoder, self.source, self.test, self.protocol, self.variant, self.shots, self.split)
        return (*measured, self.pooling, self.metric, self.seed)


def summarize(rows: list[ResultRow]) -> list[ResultRow]:
    """The `mean` and `std` rows of several splits of one measurement."""
    values, first = np.array([row.value for row in rows]), rows[0]
    seconds = sum(row.seconds for row in rows)
    shared = asdict(first) | {"chosen": {}, "seconds": seconds}
    mean = ResultRow(**(shared | {"split": "mean", "value": float(values.mean())}))
    if len(rows) < 2:
        return [mean]
    return [mean, ResultRow(**(shared | {"split": "std", "value": float(values.std(ddof=1))}))]


def read_results(path: Path) -> list[ResultRow]:
    """The rows of a results.json; none where there is no file."""
    return [ResultRow(**row) for row in json.loads(path.read_text())] if path.is_file() else []


def write_results(path: Path, new: Iterable[ResultRow]) -> None:
    """Add rows; rows with the same identity are replaced."""
    rows = {row.identity: row for row in [*read_results(path), *new]}
    write_text(path, json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n")


def results_table(results: list[tuple[str, ResultRow]]) -> tuple[list[str], list[list[str]]]:
    """A row per encoder and pooling, a column per protocol and number of labels: mean ± deviation over splits.

    Args:
        results: (how the encoder is called, row).

    Returns:
        (columns, rows of cells), the encoder first.
    """

    def key(name: str, row: ResultRow) -> tuple[object, ...]:
        return (name, row.source, row.test, row.protocol, row.variant, row.shots, row.pooling, row.metric)

    spread = {key(name, row): row.value for name, row in results if row.split == "std"}
    averaged = {key(name, row) for name, row in results if row.split == "mean"}
    cells: dict[str, dict[str, str]] = {}
    order: dict[str, tuple[object, ...]] = {}
    for name, row in results:
        if row.split == "mean" or (row.split == "0" and key(name, row) not in averaged):
            deviation = spread.get(key(name, row))
            text = f"{row.value:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")
            full = name if row.pooling in (None, "cls") else f"{name}, {row.pooling}"
            cells.setdefault(full, {})[_column(row)] = text
            order[_column(row)] = (row.protocol, row.variant or "", "%" in row.shots, float(row.shots.rstrip("%")))
    columns = sorted(order, key=lambda column: order[column])
    return ["encoder", *columns], [[name, *(own.get(c, "") for c in columns)] for name, own in cells.items()]


def _column(row: ResultRow) -> str:
    if row.protocol == "knn":
        return "kNN, all labels"
    labels = f"{row.shots} labels" if row.shots.endswith("%") else f"{row.shots} shots"
    what = "" if row.protocol == "logistic" else f"{row.protocol}, "
    variant = f" ({row.variant})" if row.variant else ""
    metric = "" if row.metric == "top1" else f", {row.metric}"
    return f"{what}{labels}{variant}{metric}"


def show_results(rows: list[ResultRow]) -> None:
    """The closing table."""
    columns, cells = results_table([(row.encoder, row) for row in rows])
    table = Table(title="Top-1 accuracy in percent, frozen features (± standard deviation over splits)")
    table.add_column("protocol")
    for own in cells:
        table.add_column(own[0], justify="right", overflow="fold")
    for place, protocol in enumerate(columns[1:], start=1):  # a terminal has more room for rows than for columns
        table.add_row(protocol, *(own[place] for own in cells))
    Console(stderr=True).print(table)
