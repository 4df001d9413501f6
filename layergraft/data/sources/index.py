"""The index of a source: one Arrow file, mapped into memory, however many images it lists.

A mapped column costs no memory of the process and none of its workers. The file lies beside the run, never beside
the user's images; without a place for it the same table is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from layergraft.data.sources.source import Labels


@dataclass(frozen=True, kw_only=True)
class Index:
    """Args:
    table: one row an image; a column `label` (int32, into `classes`) where there are labels.
    classes: names of the classes in the order of their first image.
    signature: says whether what was listed is still the same.
    fingerprint: of the names of all images.
    """

    table: pa.Table
    classes: list[str]
    signature: str
    fingerprint: str

    def labels(self) -> tuple[Labels | None, list[str]]:
        """Class of each image, of shape (N,), and the classes in their order: by number where all are numbers."""
        if not self.classes or "label" not in self.table.column_names:
            return None, []
        numbers = all(name.isdecimal() for name in self.classes)
        ordered = sorted(self.classes, key=int if numbers else str)
        place = np.array([ordered.index(name) for name in self.classes], dtype=np.int64)
        return place[self.table.column("label").to_numpy()], ordered


class IndexBuilder:
    """Collects rows in batches, into a file or in memory.

    Args:
        schema: columns; `label` is int32.
        path: the index file, or None.
        names: the column whose bytes make the fingerprint.
    """

    def __init__(self, schema: pa.Schema, path: Path | None, names: str) -> None:
        self.schema, self.path, self.names = schema, path, names
        self.classes: dict[str, int] = {}
        self._digest = hashlib.blake2b(digest_size=8)
        self._batches: list[pa.RecordBatch] = []
        self._partial = path.with_suffix(f".{os.getpid()}.part") if path else None
        self._writer = None
        if self._partial:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pa.ipc.new_file(str(self._partial), schema)

    def class_ids(self, names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Numbers of classes in the order of their first appearance."""
        return np.array([self.classes.setdefault(name, len(self.classes)) for name in names], dtype=np.int32)

    def add(self, columns: Mapping[str, object]) -> None:
        """Add a batch of rows."""
        batch = pa.record_batch([columns[field.name] for field in self.schema], schema=self.schema)
        column = batch.column(self.names)
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[: len(column) + 1]
        if len(column):
            self._digest.update(memoryview(column.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
        if self._writer:
            self._writer.write(batch)
        else:
            self._batches.append(batch)

    def finish(self, signature: str) -> Index:
        """The complete index; the file appears at once or not at all."""
        fingerprint = self._digest.hexdigest()
        if self._writer is None:
            table = pa.Table.from_batches(self._batches, self.schema)
            return Index(table=table, classes=list(self.classes), signature=signature, fingerprint=fingerprint)
        assert self.path is not None
        assert self._partial is not None
        self._writer.close()
        side = {"classes": list(self.classes), "signature": signature, "fingerprint": fingerprint}
        os.replace(self._partial, self.path)
        self.path.with_suffix(".json").write_text(json.dumps(side))
        return read_index(self.path)


def read_index(path: Path) -> Index:
    """Map an index file."""
    side = json.loads(path.with_suffix(".json").read_text())
    return Index(table=pa.ipc.open_file(pa.memory_map(str(path))).read_all(), **side)


def open_index(
    directory: Path | None, place: str, valid: Callable[[str], bool], build: Callable[[Path | None], Index]
) -> Index:
    """The index of a place: the file of an earlier start where it is still valid, else a new one.

    Args:
        directory: where index files go, or None.
        place: what is indexed.
        valid: whether a signature still holds.
        build: makes the index, into the given file where there is one.
    """
    if directory is None:
        return build(None)
    path = directory / f"{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}.arrow"
    if path.with_suffix(".json").is_file() and path.is_file():
        index = read_index(path)
        if valid(index.signature):
            return index
    path.with_suffix(".json").unlink(missing_ok=True)  # the old one must not describe the new table
    return build(path)
