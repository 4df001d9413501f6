"""The maps in README.md and CONTRIBUTING.md, and the import contracts of pyproject.toml, hold."""

from __future__ import annotations

import re
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


def _map(page: str) -> dict[str, str]:
    """Each package or module that the map of a page names directly below layergraft/, and what it says of it."""
    block = next(
        part for part in (ROOT / page).read_text().split("```")[1::2] if part.strip().startswith("layergraft/")
    )
    named: dict[str, str] = {}
    name = ""
    for line in block.strip().splitlines()[1:]:
        if line.startswith("  ") and line[2] != " ":
            name, _, line = line.strip().partition(" ")
        named[name] = named.get(name, "") + " " + line.strip()
    return named


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_map_names_what_is_there_and_no_other(page: str) -> None:
    packages = {file.parent.name + "/" for file in ROOT.glob("layergraft/*/__init__.py")}
    modules = {file.name for file in ROOT.glob("layergraft/*.py") if not file.name.startswith("__")}
    named = _map(page)
    assert set(named) == packages | modules
    for package, text in named.items():
        for file in re.findall(r"\b\w+\.py\b|\b\w+/", text):
            base = ROOT / "layergraft" / package
            assert (base / file).exists(), f"{page}: {package} has no {file}"


def test_files_named_in_contributing_exist() -> None:
    """Those in backticks: from the top, or below layergraft/; NAME stands for a new one."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = [file for file in re.findall(r"`([\w./]+(?:\.\w+|/))`", text) if "NAME" not in file and "/" in file]
    assert len(files) > 10
    for file in files:
        outputs = file.startswith("runs/site")
        assert outputs or (ROOT / file).exists() or (ROOT / "layergraft" / file).exists(), file


def test_the_map_fits_a_screen() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().split("## Where do I put")[0].splitlines()) <= 60
