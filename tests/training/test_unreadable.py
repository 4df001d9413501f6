"""Unreadable images are counted over all processes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from broken import broken_files
from processes import finish, running, start_group, write_recipe

from layergraft.data.randomness import Randomness
from layergraft.data.sources.open import open_source

BATCH, ALLOWED = 64, 12
SMALL_IMAGES = {
    "encoder.img_size": 16,
    "encoder.patch_size": 8,
    "encoder.in_chans": 3,
    "data.holdout": 0,
    "stages.mae.epochs": 1,
    "stages.mae.batch_size": BATCH,
}


@pytest.mark.slow
def test_two_processes_count_together(tmp_path: Path) -> None:
    """Neither reads as many broken files in the first stage as are allowed; together they read more."""
    images, run, errors = tmp_path / "images", tmp_path / "run", tmp_path / "errors.txt"
    for part in ("a", "b"):
        (images / part).mkdir(parents=True)
        names = set(broken_files(images / part))
    for index, own in enumerate(np.random.default_rng(0).integers(0, 256, (380, 3, 3, 3), dtype=np.uint8)):
        cv2.imwrite(str(images / "ab"[index % 2] / f"{index:04d}.png"), cv2.resize(own, (20, 20)))
    source = open_source(str(images))
    order = Randomness(seed=0, scope="mae").permutation("order", source.keys, 0)[: len(source) // BATCH * BATCH]
    broken = np.array([Path(source.images.name(int(source.keys[place]))).name in names for place in order])
    first = np.arange(len(order)) % BATCH < BATCH // 2
    assert max(np.sum(first & broken), np.sum(~first & broken)) <= ALLOWED < np.sum(broken)
    recipe = write_recipe(tmp_path / "recipe.yaml", SMALL_IMAGES | {"data.max_bad": ALLOWED / len(source)})
    group = start_group([*recipe, "--data", str(images), "--out", str(run)], errors, 2)
    with running(*group):
        assert finish(*group) == [2, 2]
    assert f"of {len(source)} images" in errors.read_text()
    assert list(run.glob("stages/0-mae/checkpoints/*.pt"))
    assert not list(run.glob("stages/1-graft/checkpoints/*.pt"))
