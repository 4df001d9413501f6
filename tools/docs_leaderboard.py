"""Write the documentation's leaderboard from docs/leaderboard.json, and add rows to it.

    layergraft bench quality --recipes mine.yaml fashion_tiny --out runs/quality
    python tools/docs_leaderboard.py --add runs/quality/quality.json --who "Your name"
    python tools/docs_leaderboard.py                                  # the page from the committed rows

Everything that `bench quality` has trained becomes a row, with the commit, the machine and the command that its file
names. A row of the same method by the same person on the same machine is replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from layergraft.commands.bench.quality.figures import core_seconds_to

DOCS = Path(__file__).parents[1] / "docs"
FILE, PAGE = DOCS / "leaderboard.json", DOCS / "leaderboard.md"
ACCURACIES = (45, 50, 55, 60)  # percent, with five labels a class
HEAD = """# Leaderboard

How soon an encoder is useful: core-minutes of training until five labels a class reach an accuracy, and what they
reach at a fixed number of core-seconds. Every row is what [`layergraft bench
quality`](ablate.md#accuracy-over-core-seconds) found: each budget trained anew with schedules that end there,
everything chosen on held-out images, test images read once. Core-seconds depend on the machine, so rows are compared
within one table, trained in turn by one call; floors (raw pixels, random weights) train nothing. ± is the standard
error over seeds. Made from [leaderboard.json](leaderboard.json) by `tools/docs_leaderboard.py`.

## How to add a row

```text
layergraft bench quality --recipes mine.yaml fashion_tiny --out runs/quality
python tools/docs_leaderboard.py --add runs/quality/quality.json --who "Your name"
```

Then send both files of `docs/` as a pull request, with `mine.yaml`. `fashion_tiny` beside yours tells readers what
your machine makes of a recipe that they know. Rivals of other packages are trained by loops in
`layergraft/commands/bench/quality`; a better one is welcome.
"""


def board_of(row: dict[str, Any]) -> tuple[str, str]:
    """What rows of one table share: images and machine."""
    machine = row["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in (machine["versions"] | row["packages"]).items())
    return row["source"], f"{machine['cpu']}, {machine['threads']} thread a training; {versions}"


def rows_of(found: dict[str, Any], who: str) -> list[dict[str, Any]]:
    """The rows of a `quality.json`.

    Args:
        found: what the file holds.
        who: made it.
    """
    shared = {key: found[key] for key in ("source", "seeds", "commit", "machine", "packages", "command")}
    return [
        {"method": method["name"], "kind": method["kind"], "who": who, **shared, "budgets": method["budgets"]}
        for method in found["methods"]
    ]


def added(rows: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, new ones in place of those that they replace."""
    known = {(row["method"], row["who"], *board_of(row)): row for row in rows}
    return list((known | {(row["method"], row["who"], *board_of(row)): row for row in new}).values())


def _value(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.1f}" + (f" ± {figure['error']:.1f}" if figure["error"] is not None else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def _name(row: dict[str, Any]) -> str:
    return f"`{row['method']}`" if row["kind"] == "recipe" else row["method"]


def _times(rows: list[dict[str, Any]]) -> str:
    """Core-minutes to the fixed accuracies, the soonest first."""
    lines = []
    for row in rows:
        points = [(at["core_seconds"], at["holdout"]["mean"]) for at in row["budgets"]]
        reached = [core_seconds_to(accuracy, points) for accuracy in ACCURACIES]
        lines.append((reached, [_name(row), *map(_minutes, reached), row["who"], str(row["commit"])]))
    lines.sort(key=lambda line: [found["core_seconds"] or float("inf") for found in reversed(line[0])])
    return _table(["", *(f"{accuracy} %" for accuracy in ACCURACIES), "who", "commit"], [line for _, line in lines])


def _minutes(found: dict[str, Any]) -> str:
    if found["core_seconds"] is None:
        return "not reached"
    return ("≤ " if found["how"] == "at_most" else "") + f"{found['core_seconds'] / 60:.2f}"


def _accuracies(rows: list[dict[str, Any]]) -> str:
    """Test accuracy at every budget: five labels a class, then kNN with all labels."""
    names = sorted({at["name"] for row in rows if row["kind"] != "floor" for at in row["budgets"]}, key=float)
    lines = []
    for row in rows:
        by_budget = {at["name"]: at["test"] for at in row["budgets"]}
        tests = [by_budget.get("0" if row["kind"] == "floor" else name) for name in names]
        cells = ["" if test is None else f"{_value(test['5'])} / {_value(test['knn'])}" for test in tests]
        best = max(test["5"]["mean"] for test in tests if test is not None)
        lines.append((best, [_name(row), *cells]))
    lines.sort(key=lambda line: -line[0])
    return _table(["", *(f"{name} core-seconds" for name in names)], [cells for _, cells in lines])


def page(rows: list[dict[str, Any]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for board in dict.fromkeys(map(board_of, rows)):
        here = [row for row in rows if board_of(row) == board]
        seeds = max(len(row["seeds"]) for row in here)
        parts += [
            f"## {board[0]}, on {board[1]}\n",
            f"Core-minutes until five labels a class reach an accuracy on held-out images; {seeds} seeds.\n",
            _times([row for row in here if row["kind"] != "floor"]),
            "Accuracy on test images in percent: five labels a class / kNN.\n",
            _accuracies(here),
            *(f"```text\n{command}\n```\n" for command in dict.fromkeys(row["command"] for row in here)),
        ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--add", type=Path, help="the quality.json of a `layergraft bench quality`")
    parser.add_argument("--who", help="whose rows they are")
    asked = parser.parse_args()
    rows = json.loads(asked.file.read_text(encoding="utf-8")) if asked.file.is_file() else []
    if asked.add:
        if not asked.who:
            parser.error("--add needs --who")
        rows = added(rows, rows_of(json.loads(asked.add.read_text(encoding="utf-8")), asked.who))
        asked.file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    asked.page.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
