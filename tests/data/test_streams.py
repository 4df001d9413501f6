"""Sources that are read block by block: the order, its shuffling, and what is asked of the server."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from test_kinds import CLASSES, views

from layergraft.commands.pack import pack
from layergraft.data.cache import decoded_once
from layergraft.data.decode import BadImage
from layergraft.data.order import STREAMS, WINDOW, epoch_order, streams_of
from layergraft.data.randomness import Randomness
from layergraft.data.sources import shards
from layergraft.data.sources.blocks import KEPT, BlockImages
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

RANDOM = Randomness(seed=0, scope="x")
COUNT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 small pictures of three classes."""
    root, random = tmp_path_factory.mktemp("streams") / "images", np.random.default_rng(0)
    for index in range(COUNT):
        path = root / CLASSES[index % 3] / f"image {index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.resize(random.integers(0, 256, (4, 6, 3), dtype=np.uint8), (24, 20)))
    return root


@pytest.fixture
def memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Packed shards on fsspec's file system in memory, which counts as remote, with blocks of about 2,000 bytes."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 2000)
    pack(str(folder), tmp_path / "packed", None, 3, 50)
    files = fsspec.filesystem("memory")
    for path in (tmp_path / "packed").iterdir():
        files.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket/{000000..000002}.tar"
    files.rm("/bucket", recursive=True)


@pytest.fixture
def stream(folder: Path, tmp_path: Path) -> str:
    """A dataset of Parquet files with row groups of seven, as a user of `datasets` writes it."""
    datasets = pytest.importorskip("datasets")
    names = sorted((str(p.relative_to(folder)) for p in folder.rglob("*.png")), key=os.fsencode)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    for number in range(3):
        own = names[40 * number : 40 * number + 40]
        rows = {
            "image": [{"bytes": (folder / n).read_bytes(), "path": n} for n in own],
            "label": [n.partition("/")[0] for n in own],
        }
        path = tmp_path / "set" / f"train-{number:05}-of-00003.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path, batch_size=7)
    return f"hf:{tmp_path / 'set'}?streaming=true"


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_same_batches_whoever_reads(kind: str, request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> None:
    spec, plain = request.getfixturevalue(kind), open_source(str(folder))
    source = open_source(spec, tmp_path / "run" / "index")
    assert source.blocks is not None
    assert len(source.blocks.starts) > 10
    assert source.classes == CLASSES
    assert source.selected_labels.tolist() == plain.selected_labels.tolist()
    for key in range(COUNT):
        assert source.images.read(key) == plain.images.read(key)
    steps = range(20)  # a batch is of 8, an epoch of 15
    whole = views(source, steps)
    for workers in (1, 3):
        again = open_source(spec, tmp_path / "run" / "index")
        for one, other in zip(whole, views(again, steps, workers=workers), strict=True):
            assert np.array_equal(one, other)
    parts = [views(source, steps, rank=rank, world_size=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(one, np.concatenate((first, second)))
    for stop in (1, 7, 14, 15, 19):
        for one, other in zip(whole[stop:], views(open_source(spec), range(stop, 20), workers=1), strict=True):
            assert np.array_equal(one, other)
    images = decoded_once(source, "disk", tmp_path / "run" / "cache", lambda: None)
    for _ in range(2):
        for one, other in zip(whole, views(replace(source, images=images), steps), strict=True):
            assert np.array_equal(one, other)


def test_every_epoch_takes_each_image_once_in_another_order() -> None:
    keys = np.arange(0, 4096, 3)  # a subset, as after a hold-out
    starts = np.arange(0, 4096, 20)
    first, second = (epoch_order(RANDOM, keys, epoch, 64, starts) for epoch in (0, 1))
    assert len(first) == len(second) == len(keys) // 64 * 64
    assert len(np.unique(first)) == len(first)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, epoch_order(RANDOM, keys, 0, 64, starts))
    # What an epoch leaves out, its last partial batch, is not always the same.
    rest = [set(range(len(keys))) - set(order.tolist()) for order in (first, second)]
    assert rest[0]
    assert rest[0] != rest[1]


def test_shuffling_is_as_documented() -> None:
    """Two images of a batch of 256 lie in one block with a probability of 1 / 64, as docs/images.md says."""
    assert [streams_of(size) for size in (256, 100, 60, 7)] == [16, 10, 15, 7]
    keys, starts = np.arange(40_000), np.arange(0, 40_000, 40)
    order = epoch_order(RANDOM, keys, 3, 256, starts)
    blocks = order.reshape(-1, 256) // 40
    same = [(np.bincount(own) * (np.bincount(own) - 1)).sum() / (256 * 255) for own in blocks]
    assert np.mean(same) == pytest.approx(1 / (STREAMS * WINDOW), rel=0.15)
    # A process reads no block that is not of its part of the batch, but for the two at the ends of a stream.
    left, right = (set(np.unique(blocks[:, half])) for half in (slice(0, 128), slice(128, 256)))
    assert len(left & right) <= 2
    # Blocks come in no order that the files have.
    assert abs(np.corrcoef(np.arange(len(blocks)), blocks[:, 0])[0, 1]) < 0.5


class CountedImages(BlockImages):
    """Blocks of ten; notes what is fetched. The first one comes only while the second one is on its way, too."""

    def __init__(self, count: int, broken: Callable[[int], bool] = lambda block: False) -> None:
        super().__init__(np.arange(0, count, 10), count)
        self.broken, self.fetched, self.alone = broken, Counter[int](), Counter[int]()
        self.meeting, self.lock = threading.Barrier(2), threading.Lock()

    def name(self, index: int) -> str:
        return str(index)

    def fetch(self, block: int) -> list[bytes | None]:
        with self.lock:
            self.fetched[block] += 1
        if block in (0, 1):
            self.meeting.wait(timeout=60)
        if self.broken(block) and self.fetched[block] == 1:
            raise OSError("gone")
        return [str(10 * block + place).encode() if block != 7 else None for place in range(10)]

    def read_one(self, index: int) -> bytes:
        self.alone[index] += 1
        return str(index).encode()


def test_announced_blocks_are_fetched_once_and_side_by_side() -> None:
    images = CountedImages(400)
    images.announce(np.arange(0, 60))
    assert not images.fetched  # nobody has wanted one yet
    assert [images.read(index) for index in range(60)] == [str(index).encode() for index in range(60)]
    assert images.fetched == Counter(range(6))
    assert images.read(99) == b"99"
    assert images.alone == Counter([99])
    images.announce(np.array([70]))
    with pytest.raises(BadImage, match="empty"):
        images.read(70)


def test_old_blocks_go_and_failed_ones_are_tried_again() -> None:
    images = CountedImages(10 * (KEPT + 5), broken=lambda block: block == 2)
    images.announce(np.array([20]))
    with pytest.raises(BadImage, match="unreadable"):
        images.read(20)
    images.announce(np.array([20]))
    assert images.read(20) == b"20"
    images.announce(np.arange(images.count))
    images.read(images.count - 1)
    assert images.read(5) == b"5"
    assert images.alone == Counter([5])  # the oldest block had to go


def test_an_index_is_asked_for_once(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index that was packed with the shards is taken over; a later start asks nothing of the server."""
    monkeypatch.setattr(shards, "build_index", lambda *_: pytest.fail("indexed again"))
    first = open_source(memory, tmp_path / "index")
    with monkeypatch.context() as patch:
        for name in ("ls", "info", "exists", "cat_file", "open"):
            patch.setattr(type(fsspec.filesystem("memory")), name, lambda *_, **__: pytest.fail("asked"))
        again = open_source(memory, tmp_path / "index")
    assert again.fingerprint == first.fingerprint
    assert [again.images.name(key) for key in (0, 119)] == [first.images.name(key) for key in (0, 119)]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_of_hugging_face_datasets(streaming: bool, folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    content = next(folder.rglob("*.png")).read_bytes()

    def opened(labels: list[object], feature: object) -> Source:
        place = tmp_path / f"set {len(list(tmp_path.iterdir()))}"
        features = datasets.Features({"image": datasets.Image(), "label": feature})
        rows = {"image": [{"bytes": content, "path": None}] * len(labels), "label": labels}
        data = datasets.Dataset.from_dict(rows, features=features)
        if streaming:
            data.to_parquet(place / "train.parquet")
            return open_source(f"hf:{place}?streaming=true", tmp_path / "index")
        data.save_to_disk(place)
        return open_source(f"hf:{place}")

    named = datasets.ClassLabel(names=["young fox", "dog", "cat"])  # an order of its own, and no cat
    for labels, feature, classes in (
        ([10, 9, 10], datasets.Value("int64"), ["9", "10"]),
        (["b", "a", "b"], datasets.Value("string"), ["a", "b"]),
        ([1, 0, 1], named, named.names),
    ):
        source = opened(labels, feature)
        assert source.selected_labels.tolist() == [1, 0, 1]
        assert source.classes == classes
    for labels, feature in (
        ([-1, -1], named),
        ([None, None], named),
        ([None, None], datasets.Value("string")),
        ([0.5, 1.5], datasets.Value("float32")),  # a quantity, no class
    ):
        source = opened(labels, feature)
        assert (source.labels, source.classes) == (None, [])
    for labels, feature in (([0, -1], named), ([0, None], named), (["a", None], datasets.Value("string"))):
        with pytest.raises(UserError, match="some have none"):
            opened(labels, feature)


def test_a_stream_may_hold_paths(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(folder.rglob("*.png"))[:5]] + [str(tmp_path / "gone.png"), None]
    (tmp_path / "gone.png").write_bytes(b"")
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": paths}, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    (tmp_path / "gone.png").unlink()
    images = open_source(f"hf:{tmp_path / 'set'}?streaming=true").images
    for announced in (False, True):
        if announced:
            assert isinstance(images, BlockImages)
            images.announce(np.arange(7))
        assert [images.read(key) for key in range(5)] == [Path(str(path)).read_bytes() for path in paths[:5]]
        for key, reason in ((5, "unreadable"), (6, "empty row")):
            with pytest.raises(BadImage, match=reason):
                images.read(key)


def test_streams_that_cannot_be(stream: str, folder: Path, tmp_path: Path) -> None:
    for spec, message in (
        (f"{folder}?streaming=true", "hf: sources"),
        (stream.replace("=true", "=yes"), "streaming=yes"),
        (stream.replace("?", ":nowhere?"), "no split 'nowhere'"),
        ("memory://bucket/nothing.tar", "no shard"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(spec)


@pytest.mark.parametrize("options", ["", "?streaming=true"])
def test_a_loading_script_is_refused(options: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "pets.py").write_text("import datasets\n")
    with pytest.raises(UserError, match="cannot be opened: Dataset scripts"):
        open_source(f"hf:{tmp_path / 'pets'}{options}")


@pytest.mark.parametrize("options", ["", "?streaming=true"])
def test_without_the_package_it_says_what_to_install(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="need the package datasets"):
        open_source(f"hf:pets{options}")


def test_a_damaged_file_is_named(stream: str, tmp_path: Path) -> None:
    file = sorted((tmp_path / "set").glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file.name}' cannot be read as a table"):
        open_source(stream)


def test_a_damaged_row_group_is_a_bad_image(stream: str, tmp_path: Path) -> None:
    images = open_source(stream).images
    file = min((tmp_path / "set").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(content)
    with pytest.raises(BadImage, match=r"unreadable|damaged"):
        images.read(0)  # announced by nobody


def test_a_changed_file_has_a_new_index(stream: str, tmp_path: Path) -> None:
    first = open_source(stream, tmp_path / "index")
    files = sorted((tmp_path / "set").glob("*.parquet"))
    files[-1].unlink()
    second = open_source(stream, tmp_path / "index")
    assert (len(first), len(second)) == (COUNT, COUNT - 40)
    assert first.fingerprint != second.fingerprint
