"""What `layergraft reproduce` refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layergraft.cli import main

WORDS = ["reproduce", "--scale", "smoke", "--seeds", "1"]


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], colour_folder: Path) -> None:
    """Exit code 2, one message, nothing changed."""
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "file").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / "settings.json").write_text(json.dumps({"scale": "tiny", "source": "builtin:fashion-canvas"}))
    for words, message in (
        ([*WORDS[:-1], "0", "--out", str(tmp_path / "new")], "at least one seed"),
        (["reproduce", "--scale", "small", "--out", str(tmp_path / "new")], "no images of its own"),
        ([*WORDS, "--data", str(colour_folder), "--out", str(tmp_path / "new")], "no test images"),
        ([*WORDS, "--out", str(busy)], "is no study"),
        ([*WORDS, "--out", str(other)], "holds another study"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert [path.name for path in busy.iterdir()] == ["file"]
