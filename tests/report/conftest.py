"""A small run on a folder whose names are hostile, and a headless Chromium to open its report in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import layergraft

HOSTILE = "<img src=x onerror=alert(1)>.png"
CLASSES = ("<b onmouseover=alert(2)>bold", "plain & simple")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

SMALL: dict[str, Any] = {
    "data.holdout": 16,
    "data.workers": 0,
    "encoder.img_size": 16,
    "encoder.patch_size": 4,
    "encoder.in_chans": 3,
    "encoder.embed_dim": 16,
    "encoder.depth": 2,
    "encoder.num_heads": 2,
    "stages.mae.epochs": 2,
    "stages.mae.batch_size": 16,
    "stages.graft.epochs": 2,
    "stages.graft.batch_size": 16,
    "stages.graft.objective.projector": [16, 16, 8],
    "stages.graft.objective.predictor": [16, 8],
    "engine.log_every": 1,
    "monitor.every": 1,
    "evaluate.shots": [1, 2],
    "evaluate.splits": 2,
}


def write_images(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for index in range(count):
        own = folder / CLASSES[index % 2]
        own.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image[:, :, index % 2] //= 4
        cv2.imwrite(str(own / (HOSTILE if index < 2 else f"{index}.png")), image)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every analysis."""
    root = tmp_path_factory.mktemp("report")
    write_images(root / "images" / "train", 96)
    write_images(root / "images" / "test", 24)
    data = str(root / "images" / "train")
    layergraft.train(recipe="fashion_tiny", data=data, out=root / "run", overrides=SMALL)
    layergraft.analyze(encoder=root / "run", data=data, what=["all"])
    return root / "run"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
