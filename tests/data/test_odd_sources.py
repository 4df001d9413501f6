"""Names that are not UTF-8, a single image, images that are all alike: trained, or refused in a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import two_classes
from test_skipped import SMALL, words

from layergraft.commands.cli import main
from layergraft.data.sources.open import open_source

CLASS, FILE = b"\xe9t\xe9", b"\xff 0.png"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """32 images; one of the two classes and one file have Latin-1 names."""
    root = tmp_path / "odd"
    place = os.fsencode(two_classes(root, 32))
    os.rename(os.path.join(place, b"b"), os.path.join(place, CLASS))
    os.rename(os.path.join(place, b"a", b"00.png"), os.path.join(place, b"a", FILE))
    return root


def test_names_that_are_not_utf8(odd: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(words(odd, out, **SMALL, **{"data.holdout": 6})) == 0
    assert main(["report", str(out)]) == 0
    assert main(["embed", "--encoder", str(out), "--data", str(odd), "--out", str(tmp_path / "e.parquet")]) == 0
    table = pq.read_table(tmp_path / "e.parquet").to_pydict()
    assert set(table["label"]) == {"a", "\ufffdt\ufffd"}
    assert "a/\ufffd 0.png" in table["name"]
    # Lists of labelled images keep the bytes, and so find their images again.
    evaluate = ["evaluate", "--encoder", str(out), "--data", str(odd), "--test", "holdout", "--protocols", "prototype"]
    assert main([*evaluate, "--shots", "5", "--splits", "1"]) == 0
    splits = sorted((out / "splits").rglob("5-*.txt"))
    assert any(CLASS in file.read_bytes() for file in splits)
    assert main([*evaluate, "--splits", str(splits[0])]) == 0
    assert main(["pack", "--data", str(odd), "--out", str(tmp_path / "pack")]) == 0
    packed = open_source(str(tmp_path / "pack" / "000000.tar"))
    assert len(packed) == 32
    assert len(packed.classes) == 2


def test_a_folder_without_permission_is_named(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its class would be missing without a word. The tests may run as root, whom no permission keeps out."""
    for name in (".cache", "lost+found", "a/deeper"):
        (odd / name).mkdir()
    locked = {str(odd / ".cache"), str(odd / "lost+found")}
    scandir = os.scandir

    def guarded(path: str) -> object:
        if os.fsdecode(path) in locked:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert len(open_source(str(odd))) == 32  # hidden ones and the file system's own hold no images
    locked |= {str(odd / "a" / "deeper")}
    assert main(words(odd, tmp_path / "run", **SMALL)) == 2
    message = capsys.readouterr().err
    assert "a/deeper" in message
    assert "Permission denied" in message
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_one_image(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.png").write_bytes((odd / "a" / "02.png").read_bytes())
    assert main(words(one, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert "one image" in message
    assert "Traceback" not in message
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_images_that_are_all_alike(odd: Path, tmp_path: Path) -> None:
    content = (odd / "a" / "02.png").read_bytes()
    for file in odd.rglob("*.png"):
        file.write_bytes(content)
    analyses = ["cka", "invariance", "neighbours", "spectrum", "uniformity"]
    settings = SMALL | {"analyze": analyses, "data.holdout": 6}
    assert main(words(odd, tmp_path / "run", **settings)) == 0
    found = {entry["analysis"]: entry for entry in json.loads((tmp_path / "run" / "analysis.json").read_text())}
    for matrix in found["cka"]["numbers"].values():
        assert np.isfinite(matrix).all()
    assert "invariance" not in found  # no layer tells the images apart
