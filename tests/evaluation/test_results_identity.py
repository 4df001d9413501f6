"""What tells the images that results belong to from others under the same names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.data.decode import ReadOptions
from layergraft.data.sources.open import open_source
from layergraft.evaluation.contents import results_identity


@pytest.fixture(params=["kept", "off"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images with masks, hashed with and without a cache."""
    monkeypatch.setenv("LAYERGRAFT_CACHE", "off" if request.param == "off" else str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for kind, high in (("images", 256), ("annotations", 3)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(1, high, (8, 8), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "data" / kind / f"{number}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    (tmp_path / "data" / "classes.txt").write_text("one\ntwo\n")
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_replaced_files_change_it(kind: str, pairs: Path) -> None:
    before = results_identity(open_source(str(pairs)))
    assert results_identity(open_source(str(pairs))) == before
    file = pairs / kind / "1.png"
    size, times = file.stat().st_size, file.stat().st_mtime_ns
    file.write_bytes((pairs / kind / "2.png").read_bytes())
    os.utime(file, ns=(times, times))
    assert file.stat().st_size == size
    assert results_identity(open_source(str(pairs))) != before


def test_a_copy_has_the_same_and_a_part_or_another_reading_another(pairs: Path) -> None:
    source = open_source(str(pairs))
    assert source.masks is not None
    shutil.copytree(pairs, pairs.with_name("copy"))
    assert results_identity(open_source(str(pairs.with_name("copy")))) == results_identity(source)
    others = [source.subset(source.keys[:2]), source.subset(source.keys[::-1]), source.read_by(ReadOptions(page=0))]
    assert len({results_identity(one) for one in [source, *others]}) == 4
