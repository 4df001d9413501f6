"""Tar shards: their index follows what they hold, and what is wrong with them is said."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.commands.pack import pack
from layergraft.data.sources.index import IndexBuilder
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError


def write(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def listed(source: Source) -> list[tuple[str, str, bytes]]:
    """(name, class, file) of each image."""
    labels = [source.classes[label] for label in source.selected_labels]
    return [(source.images.name(key), label, source.images.read(key)) for key, label in enumerate(labels)]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A directory with two packed shards of six images each: one class, and the other."""
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((5, 6, 3), number, np.uint8))
    pack(str(tmp_path / "images"), tmp_path / "packed", None, 3, 6)
    return tmp_path / "packed"


def test_a_rewritten_shard_of_the_same_size_is_indexed_again(tmp_path: Path) -> None:
    shard, index = tmp_path / "x.tar", tmp_path / "index"
    write(shard, [("a.png", b"one"), ("a.cls", b"cat"), ("b.png", b"two"), ("b.cls", b"dog")])
    first = open_source(str(shard), index)
    size = shard.stat().st_size
    write(shard, [("c.cls", b"owl"), ("c.png", b"longer")])
    assert shard.stat().st_size == size
    second = open_source(str(shard), index)
    assert listed(second) == [("x.tar:c.png", "owl", b"longer")]
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("change", ["names", "labels", "order"])
def test_a_packed_index_is_used_for_the_shards_that_it_describes(packed: Path, tmp_path: Path, change: str) -> None:
    spec = "{000000..000001}.tar"
    plain = listed(open_source(str(packed / spec)))
    shutil.copytree(packed, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times of change
    assert listed(open_source(str(tmp_path / "copy" / spec), tmp_path / "run")) == plain
    assert not list((tmp_path / "run").glob("*"))
    shard = packed / "000001.tar"
    with tarfile.open(shard) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    if change == "names":
        members = [(f"n{name}", content) for name, content in members]
    elif change == "labels":
        members = [(name, b"c" if name.endswith("cls") else content) for name, content in members]
    else:
        members = members[2:] + members[:2]
    status = shard.stat()
    write(shard, members)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shard.stat().st_size == status.st_size
    now = listed(open_source(str(packed / spec), tmp_path / "run"))
    images = [(f"000001.tar:{name}", content) for name, content in members if name.endswith("png")]
    assert [(name, content) for name, _, content in now[6:]] == images
    assert {label for _, label, _ in now[6:]} == {"c" if change == "labels" else "b"}
    assert now[:6] == plain[:6]


@pytest.mark.parametrize("damage", [b"", b"no index", b"cut"])
def test_a_damaged_index_is_made_again(packed: Path, tmp_path: Path, damage: bytes) -> None:
    spec, index = str(packed / "{000000..000001}.tar"), tmp_path / "run"
    plain = listed(open_source(spec))

    def spoil(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-100] if damage == b"cut" else damage)

    spoil(packed / "shards.index")
    (packed / "index.json").write_text("{}")  # a stranger's
    for _ in range(2):
        assert listed(open_source(spec, index)) == plain
        (file,) = index.iterdir()
        spoil(file)


@pytest.mark.parametrize("column", ["shard", "names", "label"])
def test_numbers_of_an_index_that_lead_out_of_it(packed: Path, column: str) -> None:
    """Fuzzing met names that were read from beyond the file: the system ends a process for that."""
    spec = str(packed / "{000000..000001}.tar")
    before = listed(open_source(spec))
    file = packed / "shards.index"
    content = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", content[-16:-8])
    _, at = json.loads(content[-16 - length : -16])["columns"][column]
    content[at + 8 : at + 16] = b"\xff\xff\xff\xff\xff\xff\x00\x00" if column == "names" else b"\x7f" * 8
    file.write_bytes(content)
    assert listed(open_source(spec)) == before


def test_a_strangers_table_beside_shards_is_no_index_of_them(packed: Path) -> None:
    spec = str(packed / "{000000..000001}.tar")
    plain = listed(open_source(spec))
    builder = IndexBuilder({"x": np.int32}, packed / "shards.index")
    builder.add([b"a"], {"x": [1]})
    builder.finish("[]")
    assert listed(open_source(spec)) == plain
    IndexBuilder({"x": np.int32}, packed / "shards.index").finish("[]")  # without a row
    assert listed(open_source(spec)) == plain


def test_labels_are_of_all_images_or_of_none(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    a, b = ("a.png", b"1"), ("b.png", b"2")
    one, two = ("a.cls", b"cat"), ("b.cls", b"dog")
    for members in ([a, one, b], [a, b, two], [a, b, one, two], [one, a, b], [a, one, b, ("b.cls", b"")]):
        write(shard, members)
        with pytest.raises(UserError, match="have a label and some have none"):
            open_source(str(shard))
    for members in ([a, one, b, two], [one, a, two, b], [a, one, b, two, ("c.cls", b"fox")]):
        write(shard, members)
        assert open_source(str(shard)).classes == ["cat", "dog"]
    for members in ([a, b], [a, ("a.json", b'{"caption": "x"}'), b], [("a.txt", b"cat"), a, b]):
        write(shard, members)
        assert open_source(str(shard)).labels is None


def test_wrong_shards_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "x.tar", [("a.png", b"1" * 600), ("b.png", b"2" * 600)])
    content = (tmp_path / "x.tar").read_bytes()
    for size, message in ((800, "truncated"), (2000, "truncated"), (1636, "truncated"), (100, "no tar file")):
        (tmp_path / "x.tar").write_bytes(content[:size])
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / "x.tar"))
    (tmp_path / "x.tar").write_bytes(content[:3072])  # some tools leave out the blocks at the end
    assert len(open_source(str(tmp_path / "x.tar"))) == 2
    with pytest.raises(UserError, match=r"backwards.\nWrite \{1\.\.5\}"):
        open_source(str(tmp_path / "{5..1}.tar"))


def test_endings_count_in_capitals_too(packed: Path, tmp_path: Path) -> None:
    (shard,) = sorted(packed.glob("*.tar"))[:1]
    expected = listed(open_source(str(shard)))
    (tmp_path / "capitals").mkdir()
    capitals = tmp_path / "capitals" / f"{shard.stem}.TAR"
    capitals.write_bytes(shard.read_bytes())
    for place in (str(capitals), str(capitals.parent)):
        assert [image[1:] for image in listed(open_source(place))] == [image[1:] for image in expected]
    assert len(open_source(f"{shard}::{capitals}")) == 2 * len(expected)
    for number, (_, _, content) in enumerate(expected):
        (tmp_path / f"{number}.png").write_bytes(content)
    lines = [f"{number}.png {label}" for number, (_, label, _) in enumerate(expected)]
    (tmp_path / "LIST.TXT").write_text("\n".join(lines))
    assert len(open_source(str(tmp_path / "LIST.TXT"))) == len(expected)
