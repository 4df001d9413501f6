"""The tables of studies of recipes are those of the committed numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = [
    ("compare_optimizers", "recipes.md", "optimizers"),
    ("search_demo", "recipes.md", "demo search"),
    ("continue_study", "weights.md", "continued"),
]


@pytest.mark.parametrize(("tool", "page", "part"), TABLES)
def test_the_script_makes_the_table_again(tmp_path: Path, tool: str, page: str, part: str) -> None:
    committed = (ROOT / "docs" / page).read_text()
    emptied = re.sub(rf"(<!-- {part} -->\n\n).*?(\n<!-- end)", r"\1\2", committed, flags=re.DOTALL)
    assert len(emptied) < len(committed)
    (tmp_path / "page.md").write_text(emptied)
    words = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--page", str(tmp_path / "page.md")]
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "page.md").read_text() == committed
