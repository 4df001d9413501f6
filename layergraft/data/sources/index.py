"""The index of a source: one Arrow file, however many images it lists.

What is asked for is read, so that the names cost no memory of any process. The file lies beside the run, never beside
the user's images; without a place for it the same table is held in memory. Classes, signature and fingerprint are kept
with an empty last batch: one file appears or is replaced at once, whoever else opens the same source meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from layergraft.config.paths import open_regular
from layergraft.data.arrays import ClassIds
from layergraft.errors import UserError
from layergraft.runs.atomic import writing
from layergraft.runs.interruption import check

_SIDE = b"layergraft"
LONGEST_NUMBER = 4300  # digits; `int` refuses more


class MappedFile:
    """A file in memory, and a handle to read it at an address of that memory.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)  # open as long as the map
        self.map = pa.memory_map(str(path))
        self._start = self.map.read_buffer().address
        self.map.seek(0)

    def read(self, address: int, count: int) -> bytes:
        """The bytes that are mapped to an address."""
        return os.pread(self._file.fileno(), count, address - self._start)


class Names:
    """A column of byte strings, read one at a time, by any number of threads.

    Of a mapped column the bytes are read from the file: a page of the map that was touched once would count as memory
    of this process, and an epoch in random order touches all of them.

    Args:
        column: of type large_binary, without nulls.
        mapped: the file that the column is mapped from, if it is.
    """

    def __init__(self, column: pa.ChunkedArray, mapped: MappedFile | None) -> None:
        self._column, self._mapped = column, mapped
        self._firsts = np.cumsum([0, *map(len, column.chunks)])
        # Addresses of each chunk's offsets and of its bytes; empty ones may have none.
        buffers = [chunk.buffers()[1:] for chunk in column.chunks]
        self._addresses = [[buffer.address if buffer else 0 for buffer in pair] for pair in buffers]

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> bytes:
        if self._mapped is None:
            return bytes(self._column[row].as_py())
        chunk = int(np.searchsorted(self._firsts, row, side="right")) - 1
        offsets, content = self._addresses[chunk]
        start, stop = struct.unpack("<2q", self._mapped.read(offsets + 8 * (row - int(self._firsts[chunk])), 16))
        return self._mapped.read(content + start, stop - start)


@dataclass(frozen=True, kw_only=True)
class Index:
    """The images that a source lists, with their labels.

    Args:
        table: one row an image; a column `label` (int32, into `classes`) where there are labels.
        classes: names of the classes in the order of their first image.
        signature: says whether what was listed is still the same.
        fingerprint: of the names of all images.
        declared: names of the classes in their order, where the images' format says them.
        remarks: see `Source`.
        label_hint: see `Source`.
        mapped: the file that the table is mapped from; None where it is held in memory.
    """

    table: pa.Table
    classes: list[str]
    signature: str
    fingerprint: str
    declared: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    label_hint: str = ""
    mapped: MappedFile | None = None

    def names(self, column: str) -> Names:
        """A column of byte strings."""
        return Names(self.table.column(column), self.mapped)

    def labels(self, as_written: bool = False) -> tuple[ClassIds | None, list[str]]:
        """Class of each image, of shape (N,), and the classes in their order: by number where all are numbers.

        Args:
            as_written: keep `3.0`. Else it is the class `3` where all are whole numbers: a program that writes a table
                turns them into fractions where a label is missing, in the table or in the one that it was cut from.
        """
        if not self.classes or "label" not in self.table.column_names:
            return None, []
        names = self.classes if as_written else _whole_numbers(self.classes)
        numeric = are_numbers(names)
        ordered = sorted(set(names), key=int if numeric else str)
        numbers_of = {name: number for number, name in enumerate(ordered)}
        renumbered = np.array([numbers_of[name] for name in names], dtype=np.int32)
        column = self.table.column("label")
        if self.mapped:  # read, not mapped: see `Names`
            only = pa.ipc.IpcReadOptions(included_fields=[self.table.column_names.index("label")])
            with pa.OSFile(str(self.mapped.path)) as file:
                column = pa.ipc.open_file(file, options=only).read_all().column("label")
        ids = column.to_numpy()
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(renumbered):
            where = repr(str(self.mapped.path)) if self.mapped else "The index"
            raise UserError(f"{where} is damaged: it has classes without a name.", "Delete it: it is made anew.")
        return renumbered[ids], ordered


def are_numbers(names: Iterable[str]) -> bool:
    """Whether all are whole numbers of a length that Python makes a number of."""
    return all(name.isdecimal() and len(name) <= LONGEST_NUMBER for name in names)


def _whole_numbers(names: list[str]) -> list[str]:
    """`3.0` as `3` where all names are such numbers; else the names as they are."""
    matches = [re.fullmatch(r"(\d+)(\.0+)?", name) for name in names]
    return [match[1] for match in matches if match] if all(matches) else names


def _partial(path: Path) -> Path:
    """Where a file is written before it gets its name: no other process writes there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_suffix(f".{uuid4().hex}.part")


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
        self.declared: list[str] = []  # this one and the next two: see `Index`
        self.remarks: list[str] = []
        self.label_hint = ""
        self._digest = hashlib.blake2b(digest_size=8)
        self._batches: list[pa.RecordBatch] = []
        self._partial = _partial(path) if path else None
        self._writer: pa.RecordBatchFileWriter | None = None
        if path:
            with writing(path):
                self._writer = pa.ipc.new_file(str(self._partial), schema)

    def class_ids(self, names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Numbers of classes in the order of their first appearance."""
        return np.array([self.classes.setdefault(name, len(self.classes)) for name in names], dtype=np.int32)

    def add(self, columns: Mapping[str, object]) -> None:
        """Add a batch of rows."""
        check()
        batch = pa.record_batch([columns[field.name] for field in self.schema], schema=self.schema)
        column = batch.column(self.names)
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[: len(column) + 1]
        if len(column):
            self._digest.update(memoryview(column.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
        if self._writer and self.path:
            with writing(self.path):
                self._writer.write(batch)
        else:
            self._batches.append(batch)

    def finish(self, signature: str) -> Index:
        """The complete index; the file appears at once or not at all."""
        side: dict[str, Any] = {
            "classes": list(self.classes),
            "signature": signature,
            "fingerprint": self._digest.hexdigest(),
            "declared": self.declared,
            "remarks": self.remarks,
            "label_hint": self.label_hint,
        }
        if self._writer is None:
            table = pa.Table.from_batches(self._batches, self.schema)
            return Index(table=table, **side)
        assert self.path is not None
        assert self._partial is not None
        empty = pa.record_batch([pa.array([], field.type) for field in self.schema], schema=self.schema)
        with writing(self.path):
            self._writer.write_batch(empty, custom_metadata={_SIDE: json.dumps(side)})
            self._writer.close()
            os.replace(self._partial, self.path)
        return _read(self.path)


def _read(file: Path | bytes) -> Index:
    mapped = MappedFile(file) if isinstance(file, Path) else None
    reader = pa.ipc.open_file(mapped.map if mapped else file)
    side = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata[_SIDE]
    table = reader.read_all()
    table.validate(full=True)  # of a damaged file, names would be read from beyond it, which ends the process
    return Index(table=table, mapped=mapped, **json.loads(side))


def read_index(file: Path | bytes) -> Index | None:
    """The index in a file, which is mapped, or in its content; None where it is damaged or no index."""
    try:
        return _read(file)
    except (OSError, pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError):
        return None


def copy_index(content: bytes, path: Path) -> Index:
    """Keep the content of an index file that lies elsewhere."""
    partial = _partial(path)
    with writing(path):
        partial.write_bytes(content)
        os.replace(partial, path)
    return _read(path)


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
    path = directory / f"{hashlib.blake2b(os.fsencode(place), digest_size=8).hexdigest()}.arrow"
    index = read_index(path)
    return index if index and valid(index.signature) else build(path)
