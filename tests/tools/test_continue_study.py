"""The study of going on from good weights runs, and goes on where it was stopped."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.slow
def test_a_short_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    study = importlib.import_module("continue_study")
    for name, value in {"STEPS": {"heads": 1, "upper": 1, "graft": 2}, "BANK": 200, "TESTED": 200}.items():
        monkeypatch.setattr(study, name, value)
    words = ["--out", str(tmp_path / "out"), "--seeds", "0", "--cases", "other-500", "--start-epochs", "0.1"]
    words += ["--recipes", "continue_small", "plain", "--json", str(tmp_path / "sum.json")]
    page = tmp_path / "page.md"
    page.write_text("<!-- continued -->\n\n\n<!-- end continued -->\n")
    words += ["--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["continue_study.py", *words])
    study.main()
    found = json.loads((tmp_path / "sum.json").read_text())["cases"]["other-500"]
    assert set(found) == {"start", "continue_small", "plain"}
    rows = (tmp_path / "out" / "rows.jsonl").read_bytes()
    by_recipe = {row["recipe"]: row for row in map(json.loads, rows.splitlines())}
    assert set(by_recipe["continue_small"]["guards"]) == {"upper", "graft"}
    assert not by_recipe["plain"]["guards"]
    change = by_recipe["plain"]["knn"] - by_recipe["start"]["knn"]
    assert found["plain"]["knn"]["change"] == pytest.approx(change, abs=0.01)
    assert f"| {change:+.1f} |" in page.read_text()
    study.main()
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == rows
