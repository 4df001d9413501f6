"""Measurements: the rows of results.json, and what `layergraft.evaluate` returns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.runs.atomic import write_text
from layergraft.runs.intervals import interval
from layergraft.runs.json_files import read_json_as
from layergraft.runs.notebook import data_frame, html_table
from layergraft.runs.readable import counted

SUMMARIES = ("mean", "std")
HOLDOUT = "holdout"  # `test` of rows about a run's held-out images
CROSS_VALIDATION = "cross-validation"  # `test` of rows whose labelled images are classified by one another


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number with its whole protocol.

    Args:
        encoder: stage name, `STAGE/momentum`, `random`, `pixels`, or the ENC as given.
        source: where labels come from.
        test: what was classified; `holdout` for held-out images, `cross-validation` for the labelled images themselves,
            each by classifiers of others.
        protocol: `knn`, `logistic`, …
        variant: of the protocol, or None.
        shots: `"5"`, `"1%"`, `"100%"`.
        split: `"0"`, ..., `"mean"`, `"std"` (n - 1).
        pooling: of the features, with what is unusual about them (`features_called`); None for pixels.
        metric: `top1`.
        value: in percent.
        n_train: labelled images.
        n_test: classified images.
        chosen: what was chosen, and on what.
        seconds: fitting and testing.
        seed: the run's seed.
        low: lower end of the 95 % interval in percent (`intervals`); None in rows of earlier versions, where `split` is
            `std`, and for metrics that are no share of images.
        high: its upper end.
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
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Refuse half an interval; msgspec passes the error on as its own."""
        if (self.low is None) != (self.high is None):
            raise ValueError("`low` and `high` of a row are both numbers, or both null")

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two rows the same measurement."""
        return (*self.measurement, self.split)

    @property
    def measurement(self) -> tuple[object, ...]:
        """What the splits of one measurement and their summary share."""
        images = (self.source, self.test, self.seed)
        return (self.encoder, *images, self.protocol, self.variant, self.shots, self.pooling, self.metric)

    @property
    def usual(self) -> bool:
        """Whether its features are of the last block, and of all patches."""
        return "/" not in (self.pooling or "")

    @property
    def images(self) -> tuple[object, ...]:
        """What rows that can be compared share: labels, and test images. Each seed holds out other images."""
        return self.source, self.test, self.n_test, self.seed if self.test == HOLDOUT else None

    @property
    def labels(self) -> str:
        """How many labels it is about: `10 labels (1 a class)`, `48 labels (1 %)`, `all 480 labels`."""
        return _labels(self.shots, self.n_train)

    def with_interval(self, std: float | None = None, n_splits: int = 1) -> ResultRow:
        """Fill `low` and `high` where the value is an accuracy over images and they are not filled yet.

        Dealing the same labels into other folds draws neither other labels nor other images: the interval of a
        cross-validation is that of as many test images.

        Args:
            std: standard deviation over the splits in percent, where the row is their mean.
            n_splits: how many there are.
        """
        if self.metric != "top1" or self.split == "std" or self.low is not None:
            return self
        low, high = interval(self.value, self.n_test, None if self.test == CROSS_VALIDATION else std, n_splits)
        return replace(self, low=low, high=high)


def features_called(pooling: str, block: int | None = None, keep: float | None = None) -> str:
    """`pooling` of a row: `cls`; of an inner block `cls/block6`; of a random part of the patches `cls/keep0.25`."""
    words = [pooling, "" if block is None else f"block{block}", "" if keep is None else f"keep{keep:g}"]
    return "/".join(filter(None, words))


def _labels(shots: str, n_train: int) -> str:
    if shots == "100%":
        return f"all {counted(n_train, 'label')}"
    each = f"{shots[:-1]} %" if shots.endswith("%") else f"{shots} a class"
    return f"{counted(n_train, 'label')} ({each})"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One measurement over all its splits.

    Args:
        encoder: as in `ResultRow`, like the next nine.
        source: likewise.
        test: likewise.
        protocol: likewise.
        variant: likewise.
        shots: likewise.
        pooling: likewise.
        metric: likewise.
        seed: likewise.
        n_train: likewise.
        n_test: likewise; the fewest of the splits.
        mean: over the splits, in percent.
        std: standard deviation over the splits (n - 1); None for a single one.
        low: lower end of the 95 % interval in percent; None for metrics that are no share of images.
        high: its upper end.
        n_splits: how many splits there are.
    """

    encoder: str
    source: str
    test: str
    protocol: str
    variant: str | None
    shots: str
    pooling: str | None
    metric: str
    seed: int
    n_train: int
    n_test: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    n_splits: int

    @property
    def labels(self) -> str:
        """How many labels it is about, in words."""
        return _labels(self.shots, self.n_train)


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was measured, split by split and summed up.

    Args:
        rows: one for each split of each measurement, never a mean.
        summary: one for each measurement.
    """

    rows: list[ResultRow]
    summary: list[Summary]

    @staticmethod
    def of(rows: Iterable[ResultRow]) -> Results:
        """Take rows as results.json holds them, with or without their `mean` and `std`."""
        single = [row for row in rows if row.split not in SUMMARIES]
        splits: dict[tuple[object, ...], list[ResultRow]] = {}
        for row in single:
            splits.setdefault(row.measurement, []).append(row)
        return Results(rows=single, summary=[_summary(part) for part in splits.values()])

    def __iter__(self) -> Iterator[ResultRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ResultRow:
        return self.rows[index]

    def frame(self) -> Any:
        """Give one row for each measurement as a data frame: the mean over its splits, and how sure that is.

        No mean stands among the splits, which are in `to_pandas()`: both can be grouped and averaged as they are.

        Returns:
            A pandas DataFrame of the columns of `Summary`; percentages in points.

        Raises:
            UserError: pandas is not installed.
        """
        columns = [field.name for field in fields(Summary)]
        return data_frame(columns, ([getattr(one, name) for name in columns] for one in self.summary))

    def to_pandas(self) -> Any:
        """Give one row for each split of each measurement as a data frame; raises `UserError` without pandas."""
        columns = [field.name for field in fields(ResultRow)]
        return data_frame(columns, ([getattr(row, name) for name in columns] for row in self.rows))

    def _repr_html_(self) -> str:
        shown = [
            (one.encoder, one.pooling or "", one.protocol, one.variant or "", one.labels, one.metric, _accuracy(one))
            for one in self.summary
        ]
        columns = ("encoder", "pooling", "protocol", "variant", "labels", "metric", "percent (95 % interval)")
        return html_table(counted(len(self.summary), "measurement"), columns, shown)

    def __repr__(self) -> str:
        lines = [
            f"Results of {counted(len(self.rows), 'row')}, {counted(len(self.summary), 'measurement')} "
            f"(percent, 95 % interval):"
        ]
        for one in self.summary:
            pooling = f", {one.pooling}" if one.pooling else ""
            variant = f" ({one.variant})" if one.variant else ""
            spread = f" ± {one.std:.1f} over {counted(one.n_splits, 'split')}" if one.std is not None else ""
            ends = f" [{one.low:.1f}, {one.high:.1f}]" if one.low is not None else ""
            measured = f"{one.protocol}{variant}, {one.labels}, {one.metric} {one.mean:.1f}{spread}{ends}"
            lines.append(f"  {one.encoder}{pooling}: {measured} on {counted(one.n_test, 'image')} of {one.test}")
        return "\n".join(lines)


def _accuracy(one: Summary) -> str:
    ends = f" ({one.low:.1f}–{one.high:.1f})" if one.low is not None else ""
    return f"{one.mean:.1f}{ends}"


def _summary(rows: list[ResultRow]) -> Summary:
    mean, *std = summarize(rows)
    kept = asdict(mean)
    for key in ("split", "value", "chosen", "seconds"):
        del kept[key]
    kept["n_test"] = min(row.n_test for row in rows)
    return Summary(**kept, mean=mean.value, std=std[0].value if std else None, n_splits=len(rows))


def summarize(rows: list[ResultRow]) -> list[ResultRow]:
    """Give the `mean` and, of several splits, the `std` row of one measurement."""
    values = np.array([row.value for row in rows])
    shared = replace(rows[0], chosen={}, seconds=sum(row.seconds for row in rows), low=None, high=None)
    mean = replace(shared, split="mean", value=float(values.mean()))
    if len(rows) < 2:
        return [mean.with_interval()]
    std = float(values.std(ddof=1))
    return [mean.with_interval(std, len(rows)), replace(shared, split="std", value=std)]


def read_results(path: Path) -> list[ResultRow]:
    """Read a results.json; no rows where there is no file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    return read_json_as(path, list[ResultRow]) if path.exists() else []


def write_results(path: Path, new: Iterable[ResultRow]) -> None:
    """Add rows; rows with the same identity are replaced.

    Where a measurement is made again, from split 0 or with its mean, all its earlier rows go: splits beyond the new
    ones and a deviation that is no longer its own would be read beside another mean.
    """
    added = list(new)
    again = {row.measurement for row in added if row.split in ("0", "mean")}
    kept = [row for row in read_results(path) if row.measurement not in again]
    rows = {row.identity: row for row in [*kept, *added]}
    write_text(path, json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n")
