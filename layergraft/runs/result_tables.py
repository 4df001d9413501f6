"""Tables of measurements: one for each pair of labelled images and test images, which alone can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from layergraft.runs.intervals import FEW_TEST_IMAGES
from layergraft.runs.results import CROSS_VALIDATION, HOLDOUT, SUMMARIES, ResultRow


@dataclass(frozen=True, kw_only=True)
class ResultGroup:
    """Rows that were measured on the same images.

    Args:
        source: where labels come from.
        test: what was classified, and by which seed it was held out.
        results: (how the encoder is called, row).
    """

    source: str
    test: str
    results: list[tuple[str, ResultRow]]

    @property
    def caption(self) -> str:
        """Which images they are, how many, and how many splits."""
        rows = [row for _, row in self.results if row.split != "std"]
        splits: dict[tuple[object, ...], int] = {}  # two runs have encoders of the same name
        for name, row in self.results:
            if row.split.isdigit() and row.shots != "100%":
                key = (name, *row.measurement)
                splits[key] = splits.get(key, 0) + 1
        counted = f"; random splits: {_range(splits.values())}" if splits else ""
        labelled = _range(row.n_train for row in rows)
        if self.test == CROSS_VALIDATION:
            return (
                f"Cross-validation over {_range(row.n_test for row in rows)} labelled images of {self.source}: each is "
                f"classified by classifiers of {labelled} others"
            )
        return (
            f"{labelled} labelled images of {self.source}, tested on {_range(row.n_test for row in rows)} images of "
            f"{self.test}{counted}"
        )

    @property
    def warning(self) -> str:
        """What to do where the test images are few; empty where they are not."""
        fewest = min(row.n_test for _, row in self.results)
        if fewest >= FEW_TEST_IMAGES:
            return ""
        if self.test == CROSS_VALIDATION:
            return (
                f"Only {fewest} labels: one image is worth {100 / max(fewest, 1):.1f} points, so the 95 % interval is "
                "wide. Label more."
            )
        return (
            f"Only {fewest} test images of {self.test}: one of them is worth {100 / max(fewest, 1):.1f} points, so the "
            "95 % interval is wide. Cross-validate (divide all labelled images into --data and --test several times "
            "and average), or give more images with --test."
        )


def _range(numbers: Iterable[int]) -> str:
    ordered = sorted(set(numbers))
    return f"{ordered[0]:,}" if len(ordered) == 1 else f"{ordered[0]:,} to {ordered[-1]:,}"


def group_by_images(results: list[tuple[str, ResultRow]]) -> list[ResultGroup]:
    """Separate rows by labelled images and test images.

    Args:
        results: (how the encoder is called, row).

    Returns:
        Groups in the order of their first row. An encoder that was measured with several seeds is called by each.
    """
    groups: dict[tuple[object, ...], list[tuple[str, ResultRow]]] = {}
    for name, row in results:
        groups.setdefault(row.images, []).append((name, row))
    seeds = {row.seed for _, row in results if row.test == HOLDOUT}
    shown = []
    for part in groups.values():
        first = part[0][1]
        held = f"{HOLDOUT} of seed {first.seed}" if first.test == HOLDOUT and len(seeds) > 1 else first.test
        shown.append(ResultGroup(source=first.source, test=held, results=_name_seeds(part)))
    return shown


def _name_seeds(results: list[tuple[str, ResultRow]]) -> list[tuple[str, ResultRow]]:
    seeds: dict[str, set[int]] = {}
    for name, row in results:
        seeds.setdefault(name, set()).add(row.seed)
    return [(f"{name}, seed {row.seed}" if len(seeds[name]) > 1 else name, row) for name, row in results]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement as it is shown.

    Args:
        name: the encoder's, with its pooling where that is not the class token.
        row: the mean over splits, or the single row, with its interval.
        std: standard deviation over splits (n - 1); None for a single one.
        splits: how many it is the mean of; 1 for a single one.
    """

    name: str
    row: ResultRow
    std: float | None
    splits: int = 1

    @property
    def text(self) -> str:
        """Give `41.2 ± 1.5 (35.1–47.6)`: mean, deviation over splits, 95 % interval."""
        spread = f" ± {self.std:.1f}" if self.std is not None else ""
        ends = f" ({self.row.low:.1f}–{self.row.high:.1f})" if self.row.low is not None else ""
        return f"{self.row.value:.1f}{spread}{ends}"


def measured(results: list[tuple[str, ResultRow]]) -> list[Measured]:
    """Take the splits of each measurement together, those of earlier versions with an interval, too.

    Args:
        results: (how the encoder is called, row).
    """
    stds = {(name, row.measurement): row.value for name, row in results if row.split == "std"}
    averaged = {(name, row.measurement) for name, row in results if row.split == "mean"}
    splits: dict[tuple[str, tuple[object, ...]], int] = {}
    for name, row in results:
        if row.split not in SUMMARIES:
            splits[name, row.measurement] = splits.get((name, row.measurement), 0) + 1
    shown = []
    for name, row in results:
        key = (name, row.measurement)
        if row.split == "mean" or (row.split == "0" and key not in averaged):
            std = stds.get(key)
            called = name if row.pooling in (None, "cls") else f"{name}, {row.pooling}"
            shown.append(
                Measured(
                    name=called,
                    row=row.with_interval(std, max(2, splits.get(key, 2))),
                    std=std,
                    splits=splits.get(key, 1),
                )
            )
    return shown


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """Numbers as a table of text.

    Args:
        columns: headlines, the encoder's first.
        rows: of cells, the encoder first.
        best: (row, column) of the highest number of each column.
    """

    columns: list[str]
    rows: list[list[str]]
    best: frozenset[tuple[int, int]]


def results_table(results: list[tuple[str, ResultRow]], of_runs: bool = False) -> ResultTable:
    """Make a row per encoder and pooling, a column per protocol and number of labels.

    Args:
        results: (how the encoder is called, row), all of one `ResultGroup`.
        of_runs: whether they are of several runs, so that each row says its seed and how many splits its means are of.
    """
    variants: dict[str, set[str | None]] = {}
    for _, row in results:
        variants.setdefault(row.protocol, set()).add(row.variant)
    cells: dict[str, dict[str, Measured]] = {}
    order: dict[str, tuple[object, ...]] = {}
    for one in measured(results):
        row = one.row
        column = _column(row, len(variants[row.protocol]) > 1)
        cells.setdefault(one.name, {})[column] = one
        order[column] = (row.protocol, row.variant or "", "%" in row.shots, float(row.shots.rstrip("%")))
    columns = sorted(order, key=lambda column: order[column])
    made = {name: [_seeds(line.values()), _splits(line.values())] if of_runs else [] for name, line in cells.items()}
    rows = [[name, *made[name], *(line[c].text if c in line else "" for c in columns)] for name, line in cells.items()]
    heads = ["encoder", *(["seed", "splits"] if of_runs else [])]
    best = set()
    for number, column in enumerate(columns, start=len(heads)):
        values = [line[column].row.value if column in line else -math.inf for line in cells.values()]
        if len(values) > 1:
            best.add((max(range(len(values)), key=values.__getitem__), number))
    return ResultTable(columns=[*heads, *columns], rows=rows, best=frozenset(best))


def _seeds(line: Iterable[Measured]) -> str:
    return ", ".join(str(seed) for seed in sorted({one.row.seed for one in line}))


def _splits(line: Iterable[Measured]) -> str:
    """How many splits means are of; empty where nothing is a mean."""
    numbers = [one.splits for one in line if one.std is not None]
    return _range(numbers) if numbers else ""


def _column(row: ResultRow, with_variant: bool) -> str:
    protocol = {"logistic": "", "knn": "nearest neighbours, "}.get(row.protocol, f"{row.protocol}, ")
    variant = f", {row.variant}" if with_variant and row.variant else ""
    metric = "" if row.metric == "top1" else f", {row.metric}"
    return f"{protocol}{row.labels}{variant}{metric}"


def show_results(rows: list[ResultRow]) -> None:
    """Print the closing tables on stderr."""
    console = Console(stderr=True)
    for group in group_by_images([(row.encoder, row) for row in rows]):
        content = results_table(group.results)
        table = Table(
            title="Top-1 accuracy in percent, frozen features: mean ± standard deviation over splits (95 % interval)",
            caption=f"{group.caption}.",
        )
        table.add_column("protocol")
        for line in content.rows:
            table.add_column(line[0], justify="right", overflow="fold")
        # A terminal has more room for rows than for columns.
        for number, protocol in enumerate(content.columns[1:], start=1):
            table.add_row(protocol, *(line[number].replace(" (", "\n(") for line in content.rows))
        console.print(table)
        if group.warning:
            console.print(group.warning, highlight=False)
