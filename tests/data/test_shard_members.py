"""Shards by WebDataset's own writer: one image a sample, with the class that WebDataset's own reader finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

webdataset = pytest.importorskip("webdataset")
PICTURES = np.random.default_rng(0).integers(0, 256, (8, 5, 6, 3), dtype=np.uint8)
MASK = np.zeros((5, 6), dtype=np.uint8)


def write(path: Path, samples: list[dict[str, Any]]) -> str:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return str(path)


def classes_of(source: Source) -> list[str] | None:
    return None if source.labels is None else [source.classes[label] for label in source.selected_labels]


def pixels_of(source: Source) -> np.ndarray:
    return np.stack([source.images.load(key, 3) for key in source.keys.tolist()])


@pytest.mark.parametrize("mask", ["seg.png", "mask.png", "target.png", "gt.png", "depth.tiff", "png"])
def test_masks_are_not_images(tmp_path: Path, mask: str) -> None:
    image = "jpg" if mask == "png" else "png"
    samples = [{"__key__": f"{key:03}", image: PICTURES[key], mask: MASK, "cls": key % 2} for key in range(4)]
    source = open_source(write(tmp_path / "x.tar", samples))
    theirs = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode("rgb8"))
    assert len(source) == len(theirs) == 4
    assert classes_of(source) == [str(sample["cls"]) for sample in theirs]
    if image == "png":
        assert np.array_equal(pixels_of(source), np.stack([sample["png"] for sample in theirs]))
    assert source.remarks == (f"'{tmp_path / 'x.tar'}': members .{mask} are not used.",)


@pytest.mark.parametrize("label", ["label.cls", "cls", "class", "label.json", "cls.txt"])
def test_members_with_names_of_their_own(tmp_path: Path, label: str) -> None:
    def content(key: int) -> Any:
        if label.endswith("json"):
            return {"label": key % 2}
        return str(key % 2) if label.endswith("txt") else str(key % 2).encode()

    samples = [{"__key__": f"a/{key}", "image.png": PICTURES[key], label: content(key)} for key in range(4)]
    if label == "class":
        samples = [{**sample, "class": sample["class"]} for sample in samples]
    source = open_source(write(tmp_path / "x.tar", samples))
    theirs = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode("rgb8"))
    assert np.array_equal(pixels_of(source), np.stack([sample["image.png"] for sample in theirs]))
    assert classes_of(source) == ["0", "1", "0", "1"]
    assert source.remarks == ()


def test_an_image_and_its_mask_with_names_of_their_own(tmp_path: Path) -> None:
    samples = [{"__key__": f"{k}", "image.png": PICTURES[k], "mask.png": MASK, "label.cls": k} for k in range(3)]
    source = open_source(write(tmp_path / "x.tar", samples))
    assert np.array_equal(pixels_of(source), PICTURES[:3])
    assert classes_of(source) == ["0", "1", "2"]


def test_keys_with_dots(tmp_path: Path) -> None:
    """WebDataset's reader makes one sample of them; its writer was given four."""
    samples = [{"__key__": f"slide1.x{key:03}", "png": PICTURES[key], "cls": key % 2} for key in range(4)]
    source = open_source(write(tmp_path / "x.tar", samples))
    assert len(list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))) == 1
    assert np.array_equal(pixels_of(source), PICTURES[:4])
    assert classes_of(source) == ["0", "1", "0", "1"]
    with_masks = [{**sample, "seg.png": MASK} for sample in samples]
    source = open_source(write(tmp_path / "y.tar", with_masks))
    assert np.array_equal(pixels_of(source), PICTURES[:4])
    assert classes_of(source) == ["0", "1", "0", "1"]
    bare = [{"__key__": f"slide1.x{key:03}", "png": PICTURES[key]} for key in range(4)]
    assert np.array_equal(pixels_of(open_source(write(tmp_path / "z.tar", bare))), PICTURES[:4])


def test_members_that_are_not_used_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    samples = [
        {
            "__key__": f"{key}",
            "left.png": PICTURES[key],
            "right.png": PICTURES[key + 4],
            "txt": "ab"[key % 2],
            "index": key,
            "json": json.dumps({"caption": "x"}).encode(),
        }
        for key in range(4)
    ]
    place = write(tmp_path / "x.tar", samples)
    source = open_source(place)
    assert classes_of(source) is None
    assert source.remarks == (f"{place!r}: members .index, .json, .txt are not used.",)
    with pytest.raises(UserError, match=r"x.png and x.cls; or name it, \?label=txt"):
        source.selected_labels  # noqa: B018
    source = open_source(f"{place}?image=right.png&label=txt", tmp_path / "index")
    assert np.array_equal(pixels_of(source), PICTURES[4:])
    assert classes_of(source) == ["a", "b", "a", "b"]
    assert classes_of(open_source(f"{place}?image=left.png&label=index", tmp_path / "index")) == ["0", "1", "2", "3"]


def test_shards_joined_as_webdataset_does(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.tar", [{"__key__": f"{name}{k}", "png": PICTURES[k], "cls": k} for k in range(3)])
    joined = f"{tmp_path / 'a.tar'}::{tmp_path / 'b.tar'}"
    theirs = [sample["__key__"] for sample in webdataset.WebDataset(joined, shardshuffle=False)]
    source = open_source(joined)
    assert [source.images.name(key).partition(":")[2] for key in range(6)] == [f"{key}.png" for key in theirs]
    assert len(open_source(joined, tmp_path / "index")) == 6
    with pytest.raises(UserError, match="There is no shard"):
        open_source(f"{tmp_path / 'a.tar'}::{tmp_path / 'd.tar'}")
