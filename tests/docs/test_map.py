"""The maps in README.md and CONTRIBUTING.md, and the import contracts of pyproject.toml, hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_no_file_of_the_package_is_ignored() -> None:
    """A wheel leaves out what .gitignore names, and so does ruff."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ignored = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""


def test_an_arrow_up_is_named_with_its_line(tmp_path: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("needs import-linter: pip install 'layergraft[dev]'")
    for file in (ROOT / "layergraft").rglob("*.py"):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [lint, "--no-cache"]
    kept = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert kept.returncode == 0, kept.stdout
    positions = tmp_path / "layergraft/encoders/positions.py"
    lines = positions.read_text().splitlines()
    positions.write_text("\n".join([*lines, "from layergraft.training import optim", ""]))
    broken = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 1
    assert f"layergraft.encoders.positions -> layergraft.training.optim (l.{len(lines) + 1})" in broken.stdout
