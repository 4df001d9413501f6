"""Folds do not part what was cut from one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.data.arrays import Labels
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.evaluation.cross_validation import deal_folds, repeated_folds, whole_files


def tiles(folder: Path, labels: Labels, files: Labels) -> Source:
    """A source whose images are said to be cut from some files."""
    for index in range(len(labels)):
        cv2.imwrite(str(folder / f"{index:03d}.png"), np.full((4, 4), index, dtype=np.uint8))
    classes = [str(number) for number in range(int(labels.max()) + 1)]
    return replace(open_source(str(folder)), labels=labels.astype(np.int32), classes=classes, files=files)


def test_tiles_of_one_file_lie_in_one_fold(tmp_path: Path) -> None:
    files = np.repeat(np.arange(16), 5)
    labels = files % 2
    kept = whole_files(tiles(tmp_path, labels, files))
    assert kept is not None
    for folds in (*repeated_folds(labels, 3, kept), deal_folds(labels, 10, 0, kept)):
        assert sorted(np.concatenate([tested for _, tested in folds]).tolist()) == list(range(80))
        for fitted, tested in folds:
            assert not set(files[fitted]) & set(files[tested])
            assert set(labels[fitted]) == {0, 1}
    few = labels[files < 6]
    (left_out,) = repeated_folds(few, 3, kept[files < 6])  # three files a class: each is left out
    assert len(left_out) == 6


def test_a_class_of_one_file_parts_it_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = np.repeat(np.arange(4), 3)
    assert whole_files(tiles(tmp_path, (files > 2).astype(np.int64), files)) is None
    assert "tiles of one image are in several folds" in capsys.readouterr().err
