"""What the package sees of a source, in words and on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import layergraft
from layergraft.commands.cli import main


def photographs(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for index in range(12):
        part = folder / "ab"[index % 2]
        part.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(part / f"{index}.png"), random.integers(0, 256, (30 + index, 60, 3), dtype=np.uint8))
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "a" / "left.heic").write_bytes(b"x")
    return folder


def deep(folder: Path) -> Path:
    tifffile = pytest.importorskip("tifffile")
    folder.mkdir()
    for index in range(6):
        array = np.random.default_rng(index).integers(0, 4000, (5, 40, 50)).astype(np.uint16)
        labels = ["DAPI", "GFP", "RFP", "Cy5", "BF"]
        metadata = {"axes": "CYX", "mode": "composite", "Labels": labels}
        tifffile.imwrite(folder / f"{index}.tif", array, imagej=True, metadata=metadata)
    return folder


def test_photographs_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look = layergraft.look(data=str(photographs(tmp_path / "images")))
    lines = dict(look.lines)
    assert look.images == 13
    assert lines["images"] == "13 (13 .png)"
    assert lines["classes"] == "2, of 6 to 7 images"
    assert lines["shorter side"] == "30 to 41 pixels, median 35"
    assert lines["stored as"] == "12 uint8, RGB"
    assert lines["read with"].endswith("3 channels")
    assert lines["unreadable"].startswith("1 of 13: 1 ")
    assert "left out by their ending: 1 .heic" in capsys.readouterr().err
    assert "13 (13 .png)" in repr(look)
    assert look.out is None


def test_deep_bands_by_name_and_range(tmp_path: Path) -> None:
    look = layergraft.look(data=f"{deep(tmp_path / 'cells')}?range=0,4000")
    lines = dict(look.lines)
    assert lines["stored as"] == "6 uint16, 5 bands"
    assert lines["channel GFP"].startswith("numbers from 0 to 39")
    assert lines["given channel 5"].startswith("levels from 0 to 255")
    assert "range=0,4000; 5 channels" in lines["read with"]


def test_a_dark_range_is_settled_and_kept_in_the_source(tmp_path: Path) -> None:
    look = layergraft.look(data=f"{deep(tmp_path / 'cells')}?range=auto&channels=GFP")
    low, high = look.source.partition("?range=")[2].partition("&")[0].split(",")
    assert 0 <= float(low) < 100 < 3900 < float(high) <= 4000
    assert "channels=GFP" in look.source
    assert dict(look.lines)["read with"].endswith("1 channel")


def test_classes_of_one_size(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "images")
    (folder / "a" / "broken.png").unlink()
    assert dict(layergraft.look(data=str(folder)).lines)["classes"] == "2, of 6 images"


def test_the_page_shows_images_views_and_numbers(tmp_path: Path, visit: Any) -> None:
    look = layergraft.look(data=str(photographs(tmp_path / "images")), out=tmp_path / "look")
    assert look.out == tmp_path / "look" / "look.html"
    page = visit(look.out)
    assert page.locator("img").count() >= 12 + 8 * 3
    assert page.get_by_text("13 (13 .png)").count() == 1


def test_built_in_images_and_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", "--data", "builtin:fashion-canvas?fraction=0.01", "--images", "8"]) == 0
    assert main(["look", "--data", str(tmp_path / "nowhere")]) == 2
    assert main(["look", "--data", "builtin:fashion", "--images", "0"]) == 2
    assert "1 or more" in capsys.readouterr().err
