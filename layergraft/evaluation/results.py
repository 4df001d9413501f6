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

from layergraft.checkpoints.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number with its whole protocol.

    Args:
        encoder: stage name, `STAGE/momentum`, `random`, `pixels`, or the ENC as given.
        source: where labels come from.
        test: what was classified; `holdout` for held-out images.
        protocol: `knn`, `logistic`.
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


def show_results(rows: list[ResultRow]) -> None:
    """The closing table: mean ± standard deviation over splits."""
    cells: dict[str, dict[str, str]] = {}
    deviations = {(r.encoder, r.variant, r.shots, r.pooling): r.value for r in rows if r.split == "std"}
    for row in rows:
        if row.split in ("mean", "0") and not (row.protocol == "logistic" and row.split == "0"):
            column = "kNN, all labels" if row.protocol == "knn" else f"{row.shots} shots, {row.variant}"
            spread = deviations.get((row.encoder, row.variant, row.shots, row.pooling))
            text = f"{row.value:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")
            name = row.encoder if row.pooling in (None, "cls") else f"{row.encoder} ({row.pooling})"
            cells.setdefault(name, {})[column] = text
    table = Table(title="Top-1 accuracy in percent, frozen features (± standard deviation over splits)")
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    table.add_column("encoder")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row_cells in cells.items():
        table.add_row(name, *(row_cells.get(column, "") for column in columns))
    Console(stderr=True).print(table)
