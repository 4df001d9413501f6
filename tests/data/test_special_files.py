"""Pipes and devices that are called like images: named as unreadable, and nobody waits for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken import SMOOTH

from layergraft.data.decode import BadImage
from layergraft.data.masks import FolderMasks
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError


def within_seconds(work: Callable[[], object]) -> Exception | None:
    """What a call raises; a thread that waits for ever is left behind, and fails the test."""
    raised: list[Exception | None] = []

    def call() -> None:
        try:
            work()
            raised.append(None)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(5)
    assert raised, "still waiting after 5 seconds"
    return raised[0]


def test_a_pipe_or_device_is_no_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), SMOOTH)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    source = open_source(str(tmp_path))
    assert [source.images.name(key) for key in range(4)] == ["a.png", "b.png", "c.png", "d.png"]
    assert np.array_equal(source.images.load(0, 3), source.images.load(1, 3))
    for key in (2, 3):
        error = within_seconds(lambda key=key: source.images.load(key, 3))
        assert isinstance(error, BadImage)
        assert str(error) == "unreadable: No regular file"


@pytest.mark.parametrize("name", ["list.txt", "table.csv", "shard.tar"])
def test_a_pipe_is_no_source(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert isinstance(within_seconds(lambda: open_source(str(tmp_path / name))), UserError)


def test_a_pipe_is_no_mask(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert isinstance(within_seconds(lambda: FolderMasks(tmp_path, ("a.png",)).load(0)), UserError)
