"""Folders with broken files, and transparent pictures of mixed size, train from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken import broken_files
from conftest import TINY, two_classes

from layergraft.commands.cli import main
from layergraft.data.cache import FileStore
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages, read_skipped
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source

OPTIONS = {
    "encoder.img_size": 16,
    "encoder.patch_size": 8,
    "encoder.in_chans": 3,
    "data.holdout": 0,
    "stages.mae.epochs": 1,
    "stages.graft.epochs": 1,
    "stages.mae.batch_size": 256,
    "stages.graft.batch_size": 256,
    "monitor.every": 0,
}


def words(data: Path, out: Path, **extra: object) -> list[str]:
    found = ["train", "--recipe", "fashion_paper", "--data", str(data), "--out", str(out)]
    options = {key: value for key, value in TINY.items() if not key.startswith("data.")} | OPTIONS
    for key, value in (options | extra).items():
        found += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 files, 30 of them broken in ten ways."""
    root = tmp_path_factory.mktemp("broken") / "images"
    pixels = np.random.default_rng(0).integers(0, 256, (2970, 3, 3, 3), dtype=np.uint8)
    for part in ("a", "b", "c"):
        (root / part).mkdir(parents=True)
        broken_files(root / part)
    for index, own in enumerate(pixels):
        cv2.imwrite(str(root / "abc"[index % 3] / f"{index:04d}.png"), cv2.resize(own, (20, 20)))
    return root


def test_broken_files_are_skipped_up_to_a_limit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(words(folder, out, **{"data.max_bad": 0.005})) == 2
    message = capsys.readouterr().err
    assert "of 3000 images" in message
    assert "--data.max-bad 0.005" in message
    assert "Traceback" not in message
    assert list(out.glob("stages/0-mae/checkpoints/*.pt"))  # everything is saved
    assert not (out / "run.json").exists()
    # The same command with a higher limit goes on, to the end.
    assert main(words(folder, out, **{"data.max_bad": 0.02})) == 0
    assert "30 images were skipped" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["data"]["skipped"] == 30
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == 30
    assert len({row["name"].partition("/")[2] for row in rows}) == 10
    assert {row["reason"] for row in rows} == set(broken_files(tmp_path).values())


def test_a_line_that_a_kill_cut_off_costs_no_other(folder: Path, tmp_path: Path) -> None:
    source, random, file = open_source(str(folder)), Randomness(seed=0, scope="skipped"), tmp_path / "skipped.jsonl"
    first = SkippedImages(1.0, file)
    for key in source.keys.tolist():
        first.load(source, key, 3, random, 0)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 30
    file.write_bytes(b"".join(lines[:10]) + lines[10][:20])
    again = SkippedImages(1.0, file)
    assert len(again.reasons) == 10
    for key in source.keys.tolist():
        again.load(source, key, 3, random, 0)
    assert read_skipped(file) == again.reasons == first.reasons


def test_transparent_pictures_of_mixed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: set[Path] = set()
    put = FileStore.put
    monkeypatch.setattr(FileStore, "put", lambda self, *own: (kept.add(self.path.parent), put(self, *own))[1])
    random = np.random.default_rng(0)
    for split, count in (("images", 40), ("later", 20)):  # nothing that is taken for test images
        for index in range(count):
            name = ("smile", "frown")[index % 2]
            path = tmp_path / split / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = random.integers(9, 130, 2)
            cv2.imwrite(str(path), random.integers(0, 256, (height, width, 4), dtype=np.uint8))
    run, images = tmp_path / "run", str(tmp_path / "images")
    extra = {"stages.mae.batch_size": 16, "stages.graft.batch_size": 16, "evaluate.shots": [1, 2], "data.cache": "disk"}
    assert main(words(tmp_path / "images", run, **extra | {"data.holdout": 8})) == 0

    def tested() -> set[tuple[str, int]]:
        return {(row["test"], row["n_test"]) for row in json.loads((run / "results.json").read_text())}

    def held_out() -> list[tuple[str, float]]:
        rows = json.loads((run / "results.json").read_text())
        own = [row for row in rows if (row["test"], row["protocol"]) == ("holdout", "knn")]
        return sorted((row["encoder"], row["value"]) for row in own)

    assert tested() == {("holdout", 8)}
    assert kept == {run / "cache"}
    assert not (run / "cache").exists()  # it goes when the run is finished
    evaluate = ["evaluate", "--encoder", str(run), "--data", images, "--protocols", "knn", "--shots", "1", "--test"]
    assert main([*evaluate, str(tmp_path / "later")]) == 0
    assert tested() == {("holdout", 8), (str(tmp_path / "later"), 20)}
    before = held_out()
    assert main([*evaluate, "holdout"]) == 0  # the very images that the run held out
    assert held_out() == before
    assert main([*evaluate, "holdout", "--holdout", "0"]) == 2
    assert main([*evaluate, "holdout", "--k", "1", "3"]) == 2  # nothing can be chosen on what is tested on


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """32 images of two classes: two batches."""
    return two_classes(tmp_path / "few", 32)


SMALL = {"stages.mae.batch_size": 16, "stages.graft.batch_size": 16, "evaluate.shots": [1]}


def test_mended_images_are_read_again(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = few / "a" / "00.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40])
    gone = few / "b" / "01.png"
    gone.write_bytes(b"")
    out = tmp_path / "run"
    assert main(words(few, out, **SMALL, **{"data.max_bad": 0.05})) == 2
    assert "Mend them where they are" in capsys.readouterr().err
    assert len(read_skipped(out / "skipped.jsonl")) == 2
    bad.write_bytes(whole)
    assert main(words(few, out, **SMALL, **{"data.max_bad": 0.05})) == 0
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["b/01.png"]
    gone.write_bytes(whole)
    before = (out / "skipped.jsonl").read_bytes()
    assert main(words(few, out, **SMALL, **{"data.max_bad": 0.05})) == 0  # finished: nothing changes
    assert (out / "skipped.jsonl").read_bytes() == before


def test_held_out_images_that_cannot_be_read_are_named(few: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.holdout": 6, "data.max_bad": 0.5}
    source = open_source(str(few))
    _, held = split_holdout(source, 6, 0)
    name = source.images.name(int(held.keys[0]))
    (few / name).write_bytes(b"")
    out = tmp_path / "run"
    assert main(words(few, out, **settings)) == 0
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [name]
    assert json.loads((out / "run.json").read_text())["data"]["skipped"] == 1
