"""What is kept of the images that a classifier named rightly and wrongly."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from result_rows import result_row

from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.evaluation.examples import examples_of
from layergraft.runs.examples import read_examples, write_examples

ROW = result_row(n_train=10, n_test=40)


def images(folder: Path, count: int, names: str = "{}.png") -> Source:
    content = cv2.imencode(".png", np.zeros((6, 8, 1), np.uint8))[1].tobytes()
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / names.format(index)).write_bytes(content)
    return open_source(str(folder))


def test_counts_and_examples(tmp_path: Path) -> None:
    source = images(tmp_path / "images", 40)
    truth = np.repeat([0, 1, 2], [20, 19, 1])
    predicted = np.where(np.arange(40) % 4 == 0, 2, truth)
    kept = examples_of(ROW, source, ["a", "b", "c"], truth, predicted, 1)
    assert kept.images == [20, 19, 1]
    counted = {(one, other): number for one, other, number in kept.taken}
    assert counted == {(0, 0): 15, (1, 1): 14, (0, 2): 5, (1, 2): 5, (2, 2): 1}
    assert [number for *_, number in kept.taken] == sorted((15, 14, 5, 5, 1), reverse=True)
    hits = [one for one in kept.examples if one.label == one.predicted]
    assert (len(hits), len(kept.examples)) == (10, 20)
    names = {source.images.name(int(key)): index for index, key in enumerate(source.keys)}
    for one in kept.examples:
        index = names[one.file]
        assert ("abc"[truth[index]], "abc"[predicted[index]]) == (one.label, one.predicted)
    assert examples_of(ROW, source, ["a", "b", "c"], truth, predicted, 1) == kept  # drawn alike every time


def test_of_many_classes_all_that_was_right_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rarest pairs were left out, and with them images that were named rightly."""
    monkeypatch.setattr("layergraft.evaluation.examples._MOST_PAIRS", 2)
    source = images(tmp_path / "images", 12)
    truth = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    predicted = np.array([1, 1, 0, 0, 2, 3, 3, 4, 4, 5, 5, 2])
    kept = examples_of(ROW, source, list("abcdef"), truth, predicted, 1)
    assert sum(number for one, other, number in kept.taken if one == other) == 4
    assert [(one, other) for one, other, _ in kept.taken if one != other] == [(0, 1), (1, 0)]


def test_a_measurement_that_is_made_again_replaces_its_examples(tmp_path: Path) -> None:
    source, truth = images(tmp_path / "images", 3), np.zeros(3, dtype=np.int64)
    kept = examples_of(ROW, source, ["a"], truth, truth, 1)
    file = tmp_path / "examples.json"
    for one in (kept, replace(kept, encoder="mae"), replace(kept, shots="1")):
        write_examples(file, one)
    assert [(one.encoder, one.shots) for one in read_examples(file)] == [("graft", "1"), ("mae", "5")]
    assert read_examples(tmp_path / "none.json") == []


def test_an_image_that_went_is_left_out(tmp_path: Path) -> None:
    source, truth = images(tmp_path / "images", 4), np.zeros(4, dtype=np.int64)
    (tmp_path / "images" / "2.png").unlink()
    kept = examples_of(ROW, source, ["a"], truth, truth, 1)
    assert {one.file for one in kept.examples} == {"0.png", "1.png", "3.png"}
    assert kept.images == [4]


def test_names_that_are_no_text_are_kept_readably(tmp_path: Path) -> None:
    """Bytes of a file's name that are no UTF-8 made a JSON file that nobody could read again."""
    source, truth = images(tmp_path / "images", 2, os.fsdecode(b"\xff{}.png")), np.zeros(2, dtype=np.int64)
    if len(source) < 2:
        pytest.skip("the source leaves such names out")
    write_examples(tmp_path / "examples.json", examples_of(ROW, source, [os.fsdecode(b"\xfe")], truth, truth, 1))
    (kept,) = read_examples(tmp_path / "examples.json")
    assert {one.file for one in kept.examples} == {"?0.png", "?1.png"}
