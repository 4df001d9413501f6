"""The same images from an S3 server (moto's, on loopback) as from this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_kinds import views

from layergraft.commands.pack import pack
from layergraft.data.decode import BadImage
from layergraft.data.sources import shards
from layergraft.data.sources.files import Place
from layergraft.data.sources.open import open_source

server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("pictures")
    yield files
    files.rm("pictures", recursive=True)  # moto's servers share what they hold
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_every_kind_on_s3(bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (9, 8, 3), dtype=np.uint8))
    names = sorted((str(p.relative_to(tmp_path / "images")) for p in tmp_path.rglob("*.png")), key=os.fsencode)
    (tmp_path / "images" / "list.txt").write_text("\n".join(f"{name} {name[0]}" for name in names))
    (tmp_path / "images" / "t.csv").write_text("path,label\n" + "".join(f"{n},{n[0]}\n" for n in names))
    plain = open_source(str(tmp_path / "images"))
    pack(str(tmp_path / "images"), tmp_path / "packed", None, 3, 5)
    bucket.put(str(tmp_path / "images"), "pictures/images", recursive=True)
    for shard in (tmp_path / "packed").glob("*.tar"):
        bucket.put(str(shard), f"pictures/packed/{shard.name}")
    for place in ("images", "images/list.txt", "images/t.csv", "packed/{000000..000002}.tar"):
        index = tmp_path / "index" / place.replace("/", "-")
        source = open_source(f"s3://pictures/{place}", index)
        assert source.classes == ["a", "b"]
        assert source.selected_labels.tolist() == plain.selected_labels.tolist()
        for key in range(12):
            assert source.images.read(key) == plain.images.read(key)
    # The listing is kept: a file that came since is not in it, one that vanished is a bad image.
    bucket.rm("pictures/images/a/0.png")
    again = open_source("s3://pictures/images", tmp_path / "index" / "images")
    assert len(again) == 12
    with pytest.raises(BadImage, match="unreadable"):
        again.images.read(names.index("a/0.png"))


def test_shards_on_s3_are_read_a_block_at_a_time(
    bucket: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(64):
        pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{index:02}.png"), pixels)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 12_000)  # some eight images
    pack(str(tmp_path / "images"), tmp_path / "packed", None, 3, 32)
    for path in (tmp_path / "packed").iterdir():
        bucket.put(str(path), f"pictures/packed/{path.name}")
    plain = open_source(str(tmp_path / "images"))
    source = open_source("s3://pictures/packed/{000000..000001}.tar", tmp_path / "index")
    assert source.blocks is not None
    requests: list[tuple[int | None, int | None]] = []
    read = Place.read

    def counted(self: Place, start: int | None = None, end: int | None = None) -> bytes:
        requests.append((start, end))
        return read(self, start, end)

    monkeypatch.setattr(Place, "read", counted)
    whole = views(source, range(8))
    assert len(requests) == len(source.blocks.starts)  # an epoch asks once for each block
    assert len(requests) < 64 / 4
    again = open_source("s3://pictures/packed/{000000..000001}.tar", tmp_path / "index")
    for one, other in zip(whole, views(again, range(8), workers=3), strict=True):
        assert np.array_equal(one, other)
    assert all(source.images.read(key) == plain.images.read(key) for key in range(64))
