"""Tar shards in the WebDataset convention: members of one sample share the name up to its first dot.

Shards are indexed once, by their headers, and then read at random, so the whole set is permuted as any other source.
Nothing is ever unpacked; members that are links or devices are no images, wherever they point.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from layergraft.data.sources.files import Place
from layergraft.data.sources.index import Index, IndexBuilder, open_index, read_index
from layergraft.data.sources.source import IMAGE_SUFFIXES, EncodedImages, Source
from layergraft.errors import UserError

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("name", pa.large_binary()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),
    ]
)
PACKED = "index.arrow"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BATCH = 65536


def expand_braces(place: str) -> list[str]:
    """`a{08..10}.tar` -> `a08.tar`, `a09.tar`, `a10.tar`."""
    found = _BRACES.search(place)
    if not found:
        return [place]
    first, last = found.groups()
    width = len(first) if first.startswith("0") else 0
    numbers = range(int(first), int(last) + 1)
    head, tail = place[: found.start()], place[found.end() :]
    return [path for n in numbers for path in expand_braces(f"{head}{n:0{width}d}{tail}")]


class ShardImages(EncodedImages):
    """Members of tar files, read where they lie."""

    def __init__(self, shards: list[Place], table: pa.Table) -> None:
        self.shards, self.table = shards, table
        self._shard, self._name, self._offset, self._size = (table.column(name) for name in SCHEMA.names[:4])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def name(self, index: int) -> str:
        shard = self.shards[self._shard[index].as_py()]
        return f"{shard.name}:{os.fsdecode(self._name[index].as_py())}"

    def read(self, index: int) -> bytes:
        start = self._offset[index].as_py()
        shard: Place = self.shards[self._shard[index].as_py()]
        return shard.read(start, start + self._size[index].as_py())


def _label(extension: str, content: bytes) -> str | None:
    """The class that a member beside an image gives."""
    if extension in ("cls", "cls.txt"):
        return content.decode("utf-8", "replace").strip()
    if extension == "json":
        try:
            value: Any = json.loads(content)
        except ValueError:
            return None
        label = value.get("label") if isinstance(value, dict) else None
        return None if label is None else str(label)
    return None


def _samples(shard: Place) -> Iterator[tuple[str, int, int, str | None]]:
    """(member, offset, size, class) of each image of a shard, in order."""
    pending: list[tuple[str, int, int]] = []
    current, label = "", None
    try:
        with shard.open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header it has seen
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if f"{folder}/{stem}" != current:
                    yield from ((*image, label) for image in pending)
                    pending, current, label = [], f"{folder}/{stem}", None
                if member.name.lower().endswith(IMAGE_SUFFIXES):
                    pending.append((member.name, member.offset_data, member.size))
                elif extension.lower() in ("cls", "cls.txt", "json"):
                    content = archive.extractfile(member)
                    label = _label(extension.lower(), content.read() if content else b"") or label
    except tarfile.TarError as error:
        raise UserError(f"{shard.path!r} is no tar file, or is compressed: {error}.", "Use plain tars.") from None
    except OSError as error:
        raise UserError(f"The shard {shard.path!r} cannot be read: {error.strerror or error}.") from None
    yield from ((*image, label) for image in pending)


def signature_of(shards: list[Place]) -> str:
    """Changes when a shard does: name and size of each."""
    return json.dumps([(shard.name, shard.fs.size(shard.path)) for shard in shards])


def build_index(shards: list[Place], path: Path | None) -> Index:
    """Index the images of shards, into a file where one is given."""
    builder = IndexBuilder(SCHEMA, path, "name")
    rows: list[tuple[int, str, int, int, str | None]] = []
    unlabelled = 0

    def flush() -> None:
        columns = list(zip(*rows, strict=True))
        names = pa.array([os.fsencode(name) for name in columns[1]], pa.large_binary())
        labels = builder.class_ids(name or "" for name in columns[4])
        builder.add(dict(zip(SCHEMA.names, (columns[0], names, columns[2], columns[3], labels), strict=True)))
        rows.clear()

    for number, shard in enumerate(shards):
        for name, offset, size, label in _samples(shard):
            rows.append((number, name, offset, size, label))
            unlabelled += label is None
            if len(rows) == _BATCH:
                flush()
    if rows:
        flush()
    if not builder.classes:
        raise UserError(f"There is no image in {shards[0].path!r}.", f"Looked for {' '.join(IMAGE_SUFFIXES)}.")
    if unlabelled:
        builder.classes.clear()  # labels of some are labels of none
    return builder.finish(signature_of(shards))


def open_shards(spec: str, place: str, index_directory: Path | None) -> Source:
    """Open tar shards; sample key = place among all images, shard after shard."""
    shards = [Place(path) for path in expand_braces(place)]
    for shard in shards:
        if not shard.exists():
            raise UserError(f"There is no shard {shard.path!r}.", "Check the numbers in the braces.")
    signature = signature_of(shards)
    packed = shards[0].parent / PACKED
    index = None
    if not packed.remote and packed.exists() and os.path.exists(os.path.splitext(packed.path)[0] + ".json"):
        index = read_index(Path(packed.path))
    if index is None or index.signature != signature:
        index = open_index(index_directory, place, lambda old: old == signature, lambda path: build_index(shards, path))
    labels, classes = index.labels()
    images = ShardImages(shards, index.table)
    return Source(
        spec=spec,
        images=images,
        keys=np.arange(len(images), dtype=np.int64),
        labels=labels,
        classes=classes,
        fingerprint=index.fingerprint,
    )
