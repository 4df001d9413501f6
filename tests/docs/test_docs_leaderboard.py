"""The leaderboard says what the committed rows say, and takes new ones."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE, PAGE = ROOT / "docs" / "leaderboard.json", ROOT / "docs" / "leaderboard.md"


def make(*words: str | Path) -> str:
    command = [sys.executable, str(ROOT / "tools" / "docs_leaderboard.py"), *map(str, words)]
    subprocess.run(command, check=True)
    return Path(words[words.index("--page") + 1]).read_text(encoding="utf-8")


def test_script_makes_every_number_of_the_page_again(tmp_path: Path) -> None:
    assert make("--page", tmp_path / "page.md") == PAGE.read_text(encoding="utf-8")
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    assert all(row["who"] and row["commit"] and row["command"] for row in rows)


def found(accuracy: float, commit: str = "abc") -> dict[str, Any]:
    """A quality.json of one recipe, two budgets and two seeds."""
    at = [
        {
            "budget": budget, "name": f"{budget:g}", "core_seconds": budget, "holdout": {"mean": mean, "error": 1.0},
            "test": {"5": {"mean": mean, "error": 0.5}, "knn": {"mean": 70.0, "error": None}},
        }
        for budget, mean in ((60.0, accuracy), (240.0, accuracy + 10))
    ]  # fmt: skip
    machine = {"cpu": "a processor", "threads": 1, "versions": {"torch": "9"}}
    head = {"source": "images", "seeds": [0, 1], "commit": commit, "machine": machine, "packages": {}, "command": "c"}
    return head | {"methods": [{"name": "mine", "kind": "recipe", "budgets": at}]}


def test_rows_are_added_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    board = importlib.import_module("docs_leaderboard")
    rows = board.added(board.rows_of(found(45.0), "A"), board.rows_of(found(52.5), "B"))
    assert [row["who"] for row in rows] == ["A", "B"]
    rows = board.added(rows, board.rows_of(found(50.0, "def"), "A"))
    assert [(row["who"], row["commit"]) for row in rows] == [("A", "def"), ("B", "abc")]
    lines = board.page(rows).splitlines()
    # Between two budgets by the logarithm of the time: half-way from 60 to 240 core-seconds is 120.
    assert "| `mine` | ≤ 1.00 | ≤ 1.00 | 2.00 | 4.00 | A | def |" in lines
    assert "| `mine` | 52.5 ± 0.5 / 70.0 | 62.5 ± 0.5 / 70.0 |" in lines
    assert lines.index("| `mine` | ≤ 1.00 | ≤ 1.00 | 1.41 | 2.83 | B | abc |") < lines.index(
        "| `mine` | ≤ 1.00 | ≤ 1.00 | 2.00 | 4.00 | A | def |"
    )
