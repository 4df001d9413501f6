"""What is found out about a user's images before a recipe is chosen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.errors import UserError
from layergraft.training.choice.images import look_at_images


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


@pytest.mark.parametrize(
    ("pixels", "bands", "channels", "deep"),
    [
        (np.full((40, 50, 3), (200, 20, 90), dtype=np.uint8), "colour", 3, False),
        (np.full((40, 50), 90, dtype=np.uint8), "grey", 1, False),
        (np.full((40, 50, 3), 90, dtype=np.uint8), "grey", 1, False),  # stored in colour, but grey
        (np.full((40, 50), 900, dtype=np.uint16), "grey", 1, True),  # of 65535: nearly black as it is
        (np.full((40, 50), 60000, dtype=np.uint16), "grey", 1, False),
    ],
    ids=["colour", "grey", "grey-in-colour", "deep-and-dark", "deep"],
)
def test_channels_and_depth(pixels: np.ndarray, bands: str, channels: int, deep: bool, tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.png", pixels)
    found = look_at_images(str(tmp_path))
    assert (found.count, found.side, found.bands, found.channels) == (3, 40, bands, channels)
    assert (found.deep, found.spec.endswith("?range=auto")) == (deep, deep)
    assert (found.classes, found.test) == (0, None)


def test_classes_and_test_images(tmp_path: Path) -> None:
    grey = np.zeros((8, 8), dtype=np.uint8)
    for name, count in (("a", 3), ("b", 5)):
        for index in range(count):
            write(tmp_path / "train" / name / f"{index}.png", grey)
    assert look_at_images(str(tmp_path / "train")).test is None
    write(tmp_path / "val" / "a" / "1.png", grey)
    write(tmp_path / "val" / "b" / "2.png", grey)
    found = look_at_images(str(tmp_path / "train"))
    assert (found.classes, found.smallest, found.test, found.untestable) == (2, 3, str(tmp_path / "val"), None)
    write(tmp_path / "val" / "c" / "1.png", grey)
    assert "c" in str(look_at_images(str(tmp_path / "train")).untestable)


def test_names_are_no_classes(tmp_path: Path) -> None:
    for index in range(4):
        write(tmp_path / f"of{index}" / "1.png", np.zeros((8, 8), dtype=np.uint8))
    assert look_at_images(str(tmp_path)).classes == 0


def test_one_label_for_all_tells_nothing_apart(tmp_path: Path) -> None:
    for index in range(4):
        write(tmp_path / f"{index}.png", np.zeros((8, 8), dtype=np.uint8))
    (tmp_path / "all.csv").write_text("image,label\n" + "".join(f"{index}.png,cat\n" for index in range(4)))
    assert look_at_images(str(tmp_path / "all.csv")).classes == 0


def test_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        look_at_images(str(tmp_path))
