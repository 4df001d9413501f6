"""Decoded images that are kept: the same batches, each image decoded once, whoever shares the file."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from layergraft.config import ViewConfig
from layergraft.data import cache
from layergraft.data.cache import NEVER, FileStore, MemoryStore, decoded_once
from layergraft.data.decode import Reduction
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.files import FileImages
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """JPEGs large enough to be reduced, PNGs, and a JPEG that is turned by its EXIF tag."""
    root, random = tmp_path / "images", np.random.default_rng(0)
    root.mkdir()
    for index in range(COUNT):
        pixels = cv2.resize(random.integers(0, 256, (6, 8, 3), dtype=np.uint8), (320 - index, 240))
        cv2.imwrite(str(root / f"{index:02}.{'png' if index % 4 == 3 else 'jpg'}"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / "00.jpg", exif=exif)
    return root


def loader(source: Source, workers: int = 0) -> TrainLoader:
    views = {"large": ViewConfig(crop_scale=(0.2, 1.0)), "small": ViewConfig(crop_scale=(0.2, 1.0), size=24)}
    return TrainLoader(
        source,
        views,
        size=48,
        channels=3,
        batch_size=4,
        random=Randomness(seed=0, scope="x"),
        skipped=SkippedImages(0),
        workers=workers,
    )


def batches(source: Source, workers: int = 0, epochs: int = 4) -> list[np.ndarray]:
    own = loader(source, workers)
    found = own.batches(0, epochs * own.steps_per_epoch)
    return [view.numpy() for batch in found for view in batch.views.values()]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """How often each image was decoded at each reduction."""
    found: Counter[tuple[int, int]] = Counter()
    plain = FileImages.load

    def load(self: FileImages, index: int, channels: int, reduction: Reduction | None = None) -> np.ndarray:
        factors = [0]

        def note(height: int, width: int) -> int:
            assert reduction is not None
            factors.append(reduction(height, width))
            return factors[-1]

        pixels = plain(self, index, channels, note if reduction else None)
        found[index, factors[-1]] += 1
        return pixels

    monkeypatch.setattr(FileImages, "load", load)
    return found


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_same_batches_and_each_image_decoded_once(
    kind: str, folder: Path, tmp_path: Path, decoded: Counter[tuple[int, int]]
) -> None:
    source = open_source(str(folder))
    expected = batches(source)
    assert sum(decoded.values()) == 4 * COUNT
    assert {factor for _, factor in decoded} >= {0, 2, 4}
    wanted = set(decoded)
    decoded.clear()
    kept = replace(source, images=decoded_once(source, kind, tmp_path / "run" / "cache", lambda: 2**40))
    for workers in (0, 3):
        for one, other in zip(expected, batches(kept, workers), strict=True):
            assert np.array_equal(one, other)
    assert decoded == Counter(dict.fromkeys(wanted, 1))
    # What evaluation decodes, without the decoder's short cuts, is kept apart.
    for _ in range(2):
        for key in range(COUNT):
            assert np.array_equal(kept.images.load(key, 3), source.images.load(key, 3))
    if kind == "disk":
        decoded.clear()
        again = replace(source, images=decoded_once(source, kind, tmp_path / "run" / "cache", lambda: None))
        for one, other in zip(expected, batches(again, 1), strict=True):
            assert np.array_equal(one, other)
        assert not decoded
        assert sorted(path.name for path in folder.iterdir()) == sorted(source.images.name(key) for key in range(COUNT))
        (folder / "01.jpg").touch()  # a file may have changed: another cache
        decoded_once(source, kind, tmp_path / "run" / "cache", lambda: None).load(1, 3)
        assert len(list((tmp_path / "run" / "cache").glob("*.pixels"))) == 2


def test_nothing_is_kept_where_room_is_short(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(folder))
    expected = batches(source, epochs=2)
    assert len(expected) > 0
    monkeypatch.setattr(cache, "RESERVE", 2**60)
    for kind in ("ram", "disk"):
        images = decoded_once(source, kind, tmp_path / "cache", lambda: 2**40)
        for one, other in zip(expected, batches(replace(source, images=images), epochs=2), strict=True):
            assert np.array_equal(one, other)
    assert all(path.stat().st_size == 0 for path in (tmp_path / "cache").iterdir())


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Each process has its own store of the same file; locks of one file opened twice act as between processes."""
    stores = [FileStore(tmp_path / "shared") for _ in range(3)]
    images = [np.full((5 + index % 7, 9, 3), index, dtype=np.uint8) for index in range(150)]

    def fill(store: FileStore, start: int) -> None:
        for step in range(len(images)):
            index = (start + step) % len(images)
            if store.get((index, 3, 1)) is None:
                store.put((index, 3, 1), images[index], (index, index + 1))

    threads = [threading.Thread(target=fill, args=(store, 50 * n)) for n, store in enumerate(stores) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in (*stores, FileStore(tmp_path / "shared")):
        for index, image in enumerate(images):
            found = store.get((index, 3, 1))
            assert found is not None
            assert np.array_equal(found, image)
            assert store.size(index) == (index, index + 1)
        assert store.get((0, 3, 2)) is None
    pixels = (tmp_path / "shared.pixels").stat().st_size
    assert pixels == sum(image.size for image in images)  # none twice


def test_a_killed_process_leaves_nothing_wrong(tmp_path: Path) -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    FileStore(tmp_path / "x").put((1, 3, 0), image, NEVER)
    with open(tmp_path / "x.pixels", "ab") as file:
        file.write(b"half an image")
    with open(tmp_path / "x.list", "ab") as file:
        file.write(b"half an entry")
    store = FileStore(tmp_path / "x")
    store.put((2, 3, 0), image + 1, None)
    for own in (store, FileStore(tmp_path / "x")):
        for index, expected in ((1, image), (2, image + 1)):
            found = own.get((index, 3, 0))
            assert found is not None
            assert np.array_equal(found, expected)
        assert (own.size(1), own.size(2)) == (NEVER, None)


def test_pixels_in_memory_are_left_alone(tmp_path: Path) -> None:
    source = open_source("builtin:fashion")
    assert decoded_once(source, "disk", tmp_path / "cache", lambda: None) is source.images
    assert not (tmp_path / "cache").exists()
    assert MemoryStore(lambda: None).get((0, 3, 0)) is None
