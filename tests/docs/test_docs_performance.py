"""The page of speed says what the committed measurements say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES, PAGE, SCRIPT = ROOT / "docs" / "performance", ROOT / "docs" / "performance.md", "tools/docs_performance.py"


def make(files: Path, page: Path) -> str:
    subprocess.run([sys.executable, str(ROOT / SCRIPT), "--files", str(files), "--page", str(page)], check=True)
    return page.read_text()


def test_script_makes_every_number_of_the_page_again(tmp_path: Path) -> None:
    assert make(FILES, tmp_path / "page.md") == PAGE.read_text()
    rows = [row for file in FILES.glob("*.json") for row in json.loads(file.read_text())["rows"]]
    assert PAGE.read_text().count("\n| ") == len(rows) + len(list(FILES.glob("*.json")))


def test_a_lost_row_is_marked(tmp_path: Path) -> None:
    row = {"case": "a", "rival": "b", "theirs": 2.0, "ours": 4.0, "unit": "ms", "better": "less"}
    head = {"title": "t", "about": "a", "machine": "m", "versions": {}, "command": "c", "commit": "0"}
    (tmp_path / "x.json").write_text(json.dumps(head | {"rows": [row, row | {"better": "more", "unit": "%"}]}))
    lines = make(tmp_path, tmp_path / "page.md").splitlines()
    assert "| a | b | 2.00 ms | 4.00 ms | 0.50 **behind** |" in lines
    assert "| a | b | 2.00 % | 4.00 % | 2.00 |" in lines
