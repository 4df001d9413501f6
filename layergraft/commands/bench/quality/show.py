"""What `bench quality` prints for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from layergraft.commands.bench.quality.figures import FEW
from layergraft.runs.readable import counted


def show(figures: Mapping[str, Any]) -> None:
    """Print accuracies, core-seconds to the target and leads."""
    console = Console(stderr=True)
    for metric, title in ((FEW, f"{FEW}-shot"), ("knn", "kNN")):
        console.print(_accuracies(figures, metric, title))
    console.print(_leads(figures))
    for note in figures["notes"]:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def _accuracies(figures: Mapping[str, Any], metric: str, title: str) -> Table:
    seeds = len(figures["seeds"])
    spread = " ± two standard errors" if seeds > 1 else ""
    table = Table(title=f"{title} accuracy on test images (%), {counted(seeds, 'seed')}{spread}")
    table.add_column("core-seconds")
    for budget in figures["budgets"]:
        table.add_column(f"{budget:g}", justify="right")
    if metric == FEW:
        table.add_column(f"to {figures['target']:.1f} % held-out", justify="right")
    for method in figures["methods"]:
        cells = [_spread(at["test"][metric]) for at in method["budgets"]]
        if method["kind"] == "floor":
            cells *= len(figures["budgets"])
        if metric == FEW:
            cells.append(_to_target(method, figures["budgets"]))
        table.add_row(method["name"], *cells)
    return table


def _leads(figures: Mapping[str, Any]) -> Table:
    first = figures["methods"][0]["name"]
    interval = ", mean minus and plus two standard errors" if len(figures["seeds"]) > 1 else ""
    table = Table(title=f"Lead of {first} in points, {FEW}-shot / kNN{interval}")
    table.add_column("over")
    for budget in figures["budgets"]:
        table.add_column(f"{budget:g}", justify="right")
    for name in dict.fromkeys(row["over"] for row in figures["leads"]):
        rows = [row for row in figures["leads"] if row["over"] == name]
        cells = [" / ".join(_interval(row) for row in rows if row["budget"] == budget) for budget in figures["budgets"]]
        table.add_row(name, *cells)
    return table


def _spread(value: Mapping[str, float | None]) -> str:
    error = "" if value["error"] is None else f" ± {2 * value['error']:.1f}"
    return f"{value['mean']:.1f}{error}"


def _interval(row: Mapping[str, Any]) -> str:
    if row["error"] is None:
        return f"{row['mean']:+.1f}"
    return f"{row['mean'] - 2 * row['error']:+.1f}…{row['mean'] + 2 * row['error']:+.1f}"


def _to_target(method: Mapping[str, Any], budgets: list[float]) -> str:
    if method["kind"] == "floor":
        return ""
    found = method["to_target"]
    if found["how"] == "not_reached":
        return f"> {budgets[-1]:g}"
    return f"{'≤ ' if found['how'] == 'at_most' else ''}{found['core_seconds']:.3g}"
