"""Images of 12 bits in files of 16, trained on and measured with `?range=auto`, against the 8-bit originals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layergraft
from layergraft.data.sources.open import open_source

tifffile = pytest.importorskip("tifffile")

SHORT = {
    "data.holdout": 40,
    "stages.mae.steps": 60,
    "stages.graft.steps": 60,
    "stages.mae.batch_size": 64,
    "stages.graft.batch_size": 32,
}


def write_both(root: Path, counts: dict[str, int]) -> None:
    """The built-in images, and times 16 with noise below: `eight/train/CLASS/KEY.tif`, `twelve/…`."""
    random = np.random.default_rng(0)
    for part, count in counts.items():
        source = open_source("builtin:fashion-canvas" + (":test" if part == "test" else ""))
        assert source.labels is not None
        for key in source.keys[:count].tolist():
            pixels, label = source.images.load(key, 1)[:, :, 0], f"{source.labels[key]}"
            deep = pixels.astype(np.uint16) * 16 + random.integers(0, 16, pixels.shape).astype(np.uint16)
            for kind, stored in (("eight", pixels), ("twelve", deep)):
                folder = root / kind / part / label
                folder.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / f"{key}.tif", stored)


def five_shots(root: Path, kind: str, query: str, overrides: dict[str, Any]) -> np.ndarray:
    """Percent of the test images that are named rightly by the trained encoder, of each split."""
    changes = {"evaluate.protocols": ["logistic"], "evaluate.shots": [5], "analyze": [], "data.workers": 0} | overrides
    run = layergraft.train(
        recipe="fashion_paper", data=f"{root / kind / 'train'}{query}", out=root / f"run-{kind}", overrides=changes
    )
    rows = [row for row in run.measured().rows if row.encoder == "graft" and "/test" in row.test]
    return np.array([row.value for row in sorted(rows, key=lambda row: int(row.split))])


@pytest.mark.parametrize(
    ("counts", "overrides"),
    [
        pytest.param({"train": 400, "test": 1000}, SHORT, marks=pytest.mark.slow, id="short"),
        pytest.param({"train": 10_000, "test": 5000}, {}, marks=pytest.mark.soak, id="the demo"),
    ],
)
def test_a_trained_encoder_is_as_good(tmp_path: Path, counts: dict[str, int], overrides: dict[str, Any]) -> None:
    write_both(tmp_path, counts)
    eight = five_shots(tmp_path, "eight", "", overrides)
    twelve = five_shots(tmp_path, "twelve", "?range=auto", overrides)
    apart = twelve - eight
    means = f"{eight.mean():.2f} % from 8 bits, {twelve.mean():.2f} % from 12"
    print(f"5 shots: {means}, {apart.mean():+.2f} ± {apart.std():.2f} points apart")
    assert len(eight) > 1
    assert abs(apart.mean()) <= 0.5
