from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.evaluation.splits import draw_splits, read_splits, write_splits


@pytest.fixture
def source() -> Source:
    return open_source("builtin:fashion-canvas?fraction=0.1")


@pytest.fixture
def synsets(tmp_path: Path) -> Source:
    """Twelve images of two classes, named as ImageNet's are."""
    for synset in ("n01440764", "n01443537"):
        (tmp_path / "train" / synset).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "train" / synset / f"{synset}_{number}.JPEG").write_bytes(b"x")
    return open_source(str(tmp_path / "train"))


def test_stratified_nested_and_different(source: Source) -> None:
    splits = {(split.shots, split.number): split.rows for split in draw_splits(source, [1, 5, "10%", "100%"], 3)}
    assert set(splits) == {(k, n) for k in ("1", "5", "10%") for n in range(3)} | {("100%", 0)}
    for number in range(3):
        assert (np.bincount(source.selected_labels[splits["5", number]], minlength=10) == 5).all()
        assert set(splits["1", number]) < set(splits["5", number]) < set(splits["10%", number])
    assert len({tuple(splits["5", number]) for number in range(3)}) == 3


def test_written_splits_are_read_back(source: Source, tmp_path: Path) -> None:
    drawn = draw_splits(source, [2, "1%"], 2)
    write_splits(tmp_path / "splits", source, drawn)
    read = {(s.shots, s.number): s.rows for s in read_splits([tmp_path / "splits"], source)}
    # One percent of 1,200 images is one of each class: a list cannot say which of the two it was meant to be.
    assert set(read) == {("1", 0), ("1", 1), ("2", 0), ("2", 1)}
    for split in drawn:
        assert (read[split.shots.replace("1%", "1"), split.number] == split.rows).all()


@pytest.mark.parametrize(
    "line", ["{0}_{1}.JPEG", "{0}/{0}_{1}.JPEG", "train/{0}/{0}_{1}.JPEG", "{0}_{1}", "{0}/{0}_{1}.JPEG 3"]
)
def test_published_lists(synsets: Source, tmp_path: Path, line: str) -> None:
    """Bare names (SimCLR, MSN), paths, names without suffix, and a class number behind them."""
    wanted = [("n01440764", 1), ("n01440764", 4), ("n01443537", 5)]
    (tmp_path / "25percent.txt").write_text("\n".join(line.format(*one) for one in wanted))
    (split,) = read_splits([tmp_path / "25percent.txt"], synsets)
    names = [synsets.images.name(int(key)) for key in synsets.keys[split.rows]]
    assert names == [f"{synset}/{synset}_{number}.JPEG" for synset, number in wanted]
    assert split.shots == "25%"
    assert split.file == str(tmp_path / "25percent.txt")


def test_bad_lists(synsets: Source, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("n01440764_1.JPEG\nn99_1.JPEG\nn99_2.JPEG\n")
    with pytest.raises(UserError, match=r"2 images .* are not in .*n99_1"):
        read_splits([file], synsets)
    file.write_text("n01440764_1.JPEG\n")
    with pytest.raises(UserError, match="no image of 1 class: 'n01443537'"):
        read_splits([file], synsets)
    with pytest.raises(UserError, match="There is no list"):
        read_splits([tmp_path / "none.txt"], synsets)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There is no list"):  # nothing would be measured, without a word
        read_splits([tmp_path / "empty"], synsets)


def test_too_few_images_are_named_and_counted(synsets: Source) -> None:
    with pytest.raises(UserError, match=r"7 shots .* 2 of 2 classes .*'n01440764' \(6\)"):
        draw_splits(synsets, [7], 1)
