"""Images that are replaced under their names while a run is stopped: refused by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import two_classes
from test_skipped import SMALL, words

from layergraft.commands.cli import main
from layergraft.data.sources.contents import HASHED, check_contents, read_contents, sampled_keys, write_contents
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "images", 40)


@pytest.fixture
def stopped(images: Path, tmp_path: Path) -> list[str]:
    """The command of a run whose second stage is still to be made."""
    command = words(images, tmp_path / "run", **SMALL, **{"data.holdout": 6})
    assert main(command) == 0
    (tmp_path / "run" / "run.json").unlink()
    shutil.rmtree(tmp_path / "run" / "stages" / "1-graft")
    return command


def other_content(file: Path) -> None:
    """As many bytes as before, and the same time of change."""
    times = file.stat().st_mtime_ns
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=(times, times))


@pytest.mark.parametrize("change", [other_content, lambda file: file.write_bytes(file.read_bytes() + b"\0")])
def test_a_replaced_image_is_named(
    change: object, stopped: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    files = {file: file.read_bytes() for file in tmp_path.glob("run/**/*") if file.is_file()}
    before = (images / "b" / "07.png").read_bytes()
    change(images / "b" / "07.png")
    capsys.readouterr()
    assert main(stopped) == 2
    message = capsys.readouterr().err
    assert "1 of 40 images" in message
    assert "'b/07.png' changed under the same name" in message
    assert {file: file.read_bytes() for file in files} == files
    (images / "b" / "07.png").write_bytes(before)
    assert main(stopped) == 0


def test_images_that_come_or_go_in_the_first_stage(
    stopped: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "run" / "stages")
    (images / "a" / "-new.png").write_bytes((images / "a" / "00.png").read_bytes())
    assert main(stopped) == 2
    assert "files came or went" in capsys.readouterr().err


def test_a_mended_image_and_a_run_of_an_earlier_version_go_on(stopped: list[str], images: Path, tmp_path: Path) -> None:
    record, skipped = tmp_path / "run" / "images.json", tmp_path / "run" / "skipped.jsonl"
    source = open_source(str(images))
    key = next(key for key in range(40) if source.images.name(key) == "b/07.png")
    whole = (images / "b" / "07.png").read_bytes()
    (images / "b" / "07.png").write_bytes(b"")
    record.unlink()
    skipped.write_text(json.dumps({"key": key, "name": "b/07.png", "reason": "empty file"}) + "\n")
    write_contents(record, read_contents(source))  # as it was when the run met the image
    (images / "b" / "07.png").write_bytes(whole)
    assert main(stopped) == 0
    assert json.loads(record.read_text())["sizes"][sampled_keys(source).tolist().index(key)] == len(whole)
    (tmp_path / "run" / "run.json").unlink()
    record.unlink()
    assert main(stopped) == 0
    assert record.is_file()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff", b'{"identity": 1}', b"[]"])
def test_a_damaged_record_is_named(content: bytes, images: Path, tmp_path: Path) -> None:
    (tmp_path / "images.json").write_bytes(content)
    with pytest.raises(UserError, match=r"images\.json"):
        check_contents(tmp_path / "images.json", open_source(str(images)), ())


def test_a_large_source_is_sampled_all_over() -> None:
    source = open_source("builtin:fashion-canvas")
    keys = sampled_keys(source)
    assert len(keys) == 4096
    assert np.array_equal(keys, sampled_keys(source.subset(source.keys[::-1])))
    assert all(np.histogram(keys[:HASHED], bins=4, range=(0, len(source)))[0] > 5)
    assert read_contents(source) is None  # no files


def test_shards_and_tables_are_compared_too(images: Path, tmp_path: Path) -> None:
    assert main(["pack", "--data", str(images), "--out", str(tmp_path / "pack")]) == 0
    (images / "table.csv").write_text("path\na/00.png\nb/01.png\n")
    for spec in (tmp_path / "pack" / "000000.tar", images / "table.csv"):
        source = open_source(str(spec))
        contents = read_contents(source)
        assert contents is not None
        assert all(contents.sizes)
        assert all(contents.hashes)
        write_contents(tmp_path / "record.json", contents)
        assert check_contents(tmp_path / "record.json", source, ()) == contents
