"""Ten thousand files of every kind, a fifth of them broken, through two threads of the loader."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from field_files import KINDS, Array
from fuzzing import mutate

from layergraft.config import ViewConfig
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages, read_skipped
from layergraft.data.sources.open import open_source

FILES, BATCH = 10_000, 50
MEGABYTES = 24  # what the second half may add; a broken file with a large header may leave a gap in the first
RANGE = "range=0,4095"  # of what is deeper than 8 bits


def pictures() -> dict[str, bytes]:
    """A file of each kind that is grey or RGB; arrays of NumPy count in a folder of their own alone."""
    rgb: Array = cv2.resize(np.random.default_rng(7).integers(0, 256, (5, 6, 3), dtype=np.uint8), (90, 70))
    return {
        name: kind.write(rgb)
        for name, kind in KINDS.items()
        if kind.suffix != ".npy" and "channels=" not in kind.query and kind.expected(rgb).shape[2] in (1, 3)
    }


def broken(content: bytes, rng: random.Random) -> bytes:
    """Empty, cut, of other content, or mutated."""
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return b"<html><body>404</body></html>"
    if kind < 4:
        return content[: rng.randrange(1, len(content))]
    return mutate(content, rng)


def write_files(root: Path, count: int) -> set[str]:
    """Fill a folder; returns the names of those that were broken."""
    contents, rng, names = pictures(), random.Random(16), set()
    kinds = sorted(contents)
    assert len(kinds) >= 40
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = f"{number:05d}{KINDS[kind].suffix}"
        content = contents[kind]
        if number % 5 == 3:
            content = broken(content, rng)
            names.add(name)
        (root / name).write_bytes(content)
    return names


def read_all(tmp_path: Path, count: int) -> tuple[int, int, list[float]]:
    """(files, those counted as unreadable, megabytes in use after each batch); every file is counted once."""
    root, log = tmp_path / "images", tmp_path / "skipped.jsonl"
    root.mkdir()
    names = write_files(root, count)
    source = open_source(f"{root}?{RANGE}")
    assert len(source) == count
    skipped = SkippedImages(1.0, log)
    loader = TrainLoader(
        source,
        {"x": ViewConfig(), "y": ViewConfig()},
        size=32,
        channels=3,
        batch_size=BATCH,
        random=Randomness(seed=0, scope="soak"),
        skipped=skipped,
        workers=2,
    )
    keys, megabytes, process = [], [], psutil.Process()
    for batch in loader.batches(0, loader.steps_per_epoch):
        keys += batch.keys.tolist()
        megabytes.append(process.memory_info().rss / 2**20)
    assert sorted(keys) == list(range(count))
    reasons = read_skipped(log)
    assert len(log.read_bytes().splitlines()) == len(reasons)
    assert reasons == skipped.reasons
    assert {source.images.name(key) for key in reasons} <= names
    assert not any("Error" in reason and "damaged" not in reason for reason in reasons.values())
    return count, len(reasons), megabytes


def test_a_few_files_of_every_kind(tmp_path: Path) -> None:
    count, unreadable, _ = read_all(tmp_path, 200)
    assert 0 < unreadable <= count // 5


@pytest.mark.soak
def test_ten_thousand_files(tmp_path: Path) -> None:
    count, unreadable, megabytes = read_all(tmp_path, FILES)
    half = max(megabytes[: len(megabytes) // 2])
    print(f"{count} files, {unreadable} unreadable, {half:.0f} MB after a half, {megabytes[-1]:.0f} MB at the end")
    assert megabytes[-1] <= half + MEGABYTES
    assert unreadable >= count // 10
