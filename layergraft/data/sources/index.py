"""The index of a source: one file, however many images it lists.

What is asked for is read, so that the names cost no memory of any process. The file lies beside the run, never beside
the user's images; without a place for it the same is held in memory. It appears or is replaced at once, whoever else
opens the same source meanwhile. It begins with a mark; then come, as they were added, the bytes of all names; then
where each name begins, and the columns of numbers, as numpy has them in memory; then JSON that says where those lie,
with classes, signature and fingerprint; at last the length of that JSON, and the mark.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from layergraft.config.paths import open_regular
from layergraft.data.arrays import ClassIds
from layergraft.data.sources.byte_strings import ByteStrings
from layergraft.errors import UserError
from layergraft.runs.atomic import writing
from layergraft.runs.interruption import check

ENDING = ".index"
_MARK = b"LGindex1"
_OFFSETS = "names"  # the column of where each name begins; the columns of a source are called otherwise
_CHECKED = 2**20  # offsets that are looked at at a time
LONGEST_NUMBER = 4300  # digits; `int` refuses more
Column = npt.NDArray[Any]
Columns = Mapping[str, type[np.generic]]


class _Stored:
    """An index file, or its content; raises ValueError, LookupError or TypeError where it is damaged or no index."""

    def __init__(self, file: Path | bytes) -> None:
        self.path = file if isinstance(file, Path) else None
        self._bytes = file if isinstance(file, bytes) else b""
        self._file: BinaryIO | None = open_regular(file) if isinstance(file, Path) else None
        size = os.fstat(self._file.fileno()).st_size if self._file else len(self._bytes)
        end = len(_MARK) + 8
        if size < len(_MARK) + end or self.read(0, len(_MARK)) != _MARK or self.read(size - len(_MARK), 8) != _MARK:
            raise ValueError("no index")
        (length,) = struct.unpack("<Q", self.read(size - end, 8))
        if length > size - end:
            raise ValueError("cut off")
        said = json.loads(self.read(size - end - length, length))
        self.side: dict[str, Any] = said["side"]
        self.rows = int(said["rows"])
        self._places: dict[str, tuple[np.dtype[Any], int, int]] = {}
        for name, (kind, at) in said["columns"].items():
            dtype, count = np.dtype(kind), self.rows + (name == _OFFSETS)
            if dtype.kind not in "bi" or at < 0 or count < 0 or at + count * dtype.itemsize > size:
                raise ValueError("a column lies outside")
            self._places[name] = dtype, at, count
        self._check_offsets(self._places[_OFFSETS][1] - len(_MARK))

    def _check_offsets(self, most: int) -> None:
        """Names of a damaged index would be read from anywhere."""
        last = 0
        _, at, count = self._places[_OFFSETS]
        for start in range(0, count, _CHECKED):
            part = np.frombuffer(self.read(at + 8 * start, 8 * min(_CHECKED, count - start)), np.int64)
            if part[0] < last or (np.diff(part) < 0).any() or (start == 0 and part[0] != 0):
                raise ValueError("names are out of order")
            last = int(part[-1])
        if last > most:
            raise ValueError("names lie outside")

    def read(self, at: int, count: int) -> bytes:
        """Some bytes; nobody's place in the file moves."""
        if self._file is None:
            return self._bytes[at : at + count]
        parts = []
        while count and (part := os.pread(self._file.fileno(), count, at)):
            parts.append(part)
            at, count = at + len(part), count - len(part)
        return b"".join(parts)

    @property
    def names(self) -> list[str]:
        """Of the columns of numbers."""
        return [name for name in self._places if name != _OFFSETS]

    def column(self, name: str) -> Column:
        """A column, mapped where it lies in a file."""
        dtype, at, count = self._places[name]
        if self._file is None or count == 0:
            return np.frombuffer(self._bytes, dtype, count, at) if count else np.empty(0, dtype)
        return np.memmap(self._file, dtype, "r", at, (count,)).view(np.ndarray)

    def copied(self, name: str) -> Column:
        """A column in memory: a page of the map that was touched once would count as memory of this process."""
        dtype, at, count = self._places[name]
        return np.frombuffer(self.read(at, count * dtype.itemsize), dtype)

    def name(self, row: int) -> bytes:
        """A name."""
        start, stop = struct.unpack("<2q", self.read(self._places[_OFFSETS][1] + 8 * row, 16))
        return self.read(len(_MARK) + start, stop - start)


class Names:
    """The names of an index, read one at a time, by any number of threads.

    Those of a file are read, not mapped: an epoch in random order touches all pages of a map.

    Args:
        strings: in memory, or in a file.
    """

    def __init__(self, strings: ByteStrings | _Stored) -> None:
        self._strings = strings

    def __len__(self) -> int:
        return self._strings.rows if isinstance(self._strings, _Stored) else len(self._strings)

    def __getitem__(self, row: int) -> bytes:
        if isinstance(self._strings, ByteStrings):
            return self._strings[row]
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._strings.name(row)


def no_names() -> Names:
    """Those of a source that needs none."""
    return Names(ByteStrings.of([]))


@dataclass(frozen=True, kw_only=True)
class Index:
    """The images that a source lists, with their labels.

    Args:
        names: one an image, where they have names.
        columns: name -> numbers, one an image; `label` (int32, into `classes`) where there are labels.
        classes: names of the classes in the order of their first image.
        signature: says whether what was listed is still the same.
        fingerprint: of the names of all images.
        declared: names of the classes in their order, where the images' format says them.
        remarks: see `Source`.
        label_hint: see `Source`.
        stored: the file that the columns are mapped from; None where they are held in memory.
    """

    names: Names = field(default_factory=no_names)
    columns: Mapping[str, Column] = field(default_factory=dict)
    classes: list[str]
    signature: str
    fingerprint: str
    declared: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    label_hint: str = ""
    stored: _Stored | None = None

    def labels(self, as_written: bool = False) -> tuple[ClassIds | None, list[str]]:
        """Class of each image, of shape (N,), and the classes in their order: by number where all are numbers.

        Args:
            as_written: keep `3.0`. Else it is the class `3` where all are whole numbers: a program that writes a table
                turns them into fractions where a label is missing, in the table or in the one that it was cut from.
        """
        if not self.classes or "label" not in self.columns:
            return None, []
        names = self.classes if as_written else _whole_numbers(self.classes)
        numeric = are_numbers(names)
        ordered = sorted(set(names), key=int if numeric else str)
        numbers_of = {name: number for number, name in enumerate(ordered)}
        renumbered = np.array([numbers_of[name] for name in names], dtype=np.int32)
        ids = self.stored.copied("label") if self.stored else self.columns["label"]
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(renumbered):
            where = repr(str(self.stored.path)) if self.stored and self.stored.path else "The index"
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
    """Collects rows in batches, names into a file or in memory.

    Args:
        columns: name -> type of each column of numbers; `label` is int32.
        path: the index file, or None.
    """

    def __init__(self, columns: Columns, path: Path | None) -> None:
        self.types, self.path = columns, path
        self.classes: dict[str, int] = {}
        self.declared: list[str] = []  # this one and the next two: see `Index`
        self.remarks: list[str] = []
        self.label_hint = ""
        self._digest = hashlib.blake2b(digest_size=8)
        self._parts: dict[str, list[Column]] = {name: [] for name in columns}
        self._offsets: list[npt.NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
        self._names: list[bytes | memoryview] = []
        self._length = 0  # bytes of all names so far
        self._partial = _partial(path) if path else None
        self._file: BinaryIO | None = None
        if path:
            with writing(path):
                self._file = open(str(self._partial), "wb")  # noqa: SIM115 - `finish` closes it
                self._file.write(_MARK)

    def class_ids(self, names: Iterable[str]) -> ClassIds:
        """Numbers of classes in the order of their first appearance."""
        listed = list(names)
        for name in dict.fromkeys(listed):
            self.classes.setdefault(name, len(self.classes))
        return np.fromiter(map(self.classes.__getitem__, listed), np.int32, len(listed))

    def add(self, names: ByteStrings | Sequence[bytes], columns: Mapping[str, npt.ArrayLike]) -> None:
        """Add a batch of rows."""
        check()
        strings = names if isinstance(names, ByteStrings) else ByteStrings.of(names)
        for name, kind in self.types.items():
            numbers = np.asarray(columns[name], dtype=kind)
            assert len(numbers) == len(strings)
            self._parts[name].append(numbers)
        self._offsets.append(strings.offsets[1:] + self._length)
        self._length += int(strings.offsets[-1])
        self._digest.update(strings.content)
        if self._file and self.path:
            with writing(self.path):
                self._file.write(strings.content)
        else:
            self._names.append(strings.content)

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
        offsets = np.concatenate(self._offsets)
        columns = {
            name: np.concatenate(parts) if parts else np.empty(0, self.types[name])
            for name, parts in self._parts.items()
        }
        if self._file is None:
            return Index(names=Names(ByteStrings(offsets, b"".join(self._names))), columns=columns, **side)
        assert self.path is not None
        assert self._partial is not None
        with writing(self.path):
            self._store(self._file, {_OFFSETS: offsets} | columns, side)
            os.replace(self._partial, self.path)
        return _read(self.path)

    def _store(self, file: BinaryIO, columns: Mapping[str, Column], side: Mapping[str, Any]) -> None:
        """What stands behind the names."""
        places = {}
        with file:
            for name, column in columns.items():
                file.write(bytes(-file.tell() % 8))
                places[name] = column.dtype.str, file.tell()
                file.write(column.data)
            rows = len(columns[_OFFSETS]) - 1
            said = json.dumps({"rows": rows, "columns": places, "side": side}).encode()
            file.write(said + struct.pack("<Q", len(said)) + _MARK)


def _read(file: Path | bytes) -> Index:
    stored = _Stored(file)
    columns = {name: stored.column(name) for name in stored.names}
    return Index(names=Names(stored), columns=columns, stored=stored, **stored.side)


def read_index(file: Path | bytes) -> Index | None:
    """The index in a file, which is mapped, or in its content; None where it is damaged or no index."""
    try:
        return _read(file)
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error):
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
    path = directory / f"{hashlib.blake2b(os.fsencode(place), digest_size=8).hexdigest()}{ENDING}"
    index = read_index(path)
    return index if index and valid(index.signature) else build(path)
