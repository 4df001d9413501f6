"""The rows of docs/performance/: ratios are paired, and a file never mixes versions."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ABOUT = {"title": "Title", "about": "What.", "command": "command"}


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import peer_figures

    yield peer_figures
    sys.modules.pop("peer_figures")


def test_ratios_are_paired_round_by_round(tool: Any) -> None:
    row = tool.Row.of("case", "rival", np.array([1.0, 10.0, 2.0]), np.array([3.0, 10.0, 4.0]))
    assert (row.median, row.min, row.max, row.n) == (2.0, 1.0, 3.0, 3)
    assert (row.ours, row.theirs) == (2.0, 4.0)


def test_rows_are_replaced_by_case_and_rival_and_dropped_with_other_versions(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(case: str, rival: str, theirs: float = 2.0) -> Any:
        return tool.Row.of(case, rival, np.ones(3), np.full(3, theirs))

    file, packages = tmp_path / "new" / "views.json", ["numpy", "not-installed-at-all"]
    tool.write_rows(file, ABOUT, packages, [row("a", "x"), row("a", "y")])
    tool.write_rows(file, ABOUT, packages, [row("a", "x", 3.0), row("b", "x"), row("b", "of ours, a part")])
    kept = json.loads(file.read_text())
    medians = {(entry["case"], entry["rival"]): entry["median"] for entry in kept["rows"]}
    assert medians == {("a", "x"): 3.0, ("a", "y"): 2.0, ("b", "x"): 2.0}
    assert kept["versions"].keys() == {"python", "numpy"}
    assert kept["machine"].endswith("cores")
    assert [entry["rival"] for entry in kept["parts"]] == ["of ours, a part"]
    docs_performance = importlib.import_module("docs_performance")
    page = docs_performance.page(file.parent)
    assert "| a | x (by rounds 3.00, 3.00 to 3.00 in 3) | 3,000 ms | 1,000 ms | 3.00 |" in page
    assert "a part" not in page
    monkeypatch.setattr(tool, "version", lambda name: "another")
    tool.write_rows(file, ABOUT, packages, [row("c", "x")])
    assert [entry["case"] for entry in json.loads(file.read_text())["rows"]] == ["c"]
