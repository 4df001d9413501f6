"""The tables of studies in docs/recipes.md are those of the committed numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"


@pytest.mark.parametrize(("tool", "part"), [("compare_optimizers", "optimizers"), ("search_demo", "demo search")])
def test_the_script_makes_the_table_again(tmp_path: Path, tool: str, part: str) -> None:
    emptied = re.sub(rf"(<!-- {part} -->\n\n).*?(\n<!-- end)", r"\1\2", PAGE.read_text(), flags=re.DOTALL)
    assert len(emptied) < len(PAGE.read_text())
    (tmp_path / "page.md").write_text(emptied)
    words = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--page", str(tmp_path / "page.md")]
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()
