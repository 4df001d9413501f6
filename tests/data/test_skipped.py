"""Folders with broken files, and transparent pictures of mixed size, train from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken import broken_files
from conftest import TINY

from layergraft.cli import main

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
    found = ["train", "--recipe", "fashion_tiny", "--data", str(data), "--out", str(out)]
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


def test_transparent_pictures_of_mixed_size(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 20)):
        for index in range(count):
            name = ("smile", "frown")[index % 2]
            path = tmp_path / split / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = random.integers(9, 130, 2)
            cv2.imwrite(str(path), random.integers(0, 256, (height, width, 4), dtype=np.uint8))
    extra = {"stages.mae.batch_size": 16, "stages.graft.batch_size": 16, "evaluate.shots": [1, 2]}
    assert main(words(tmp_path / "train", tmp_path / "run", **extra)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["n_test"] for row in results} == {20}
