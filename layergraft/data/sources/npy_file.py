"""`.npy` and `.npz`: arrays that NumPy saved, in MedMNIST's and Keras's layouts and others."""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from layergraft.config.paths import open_regular
from layergraft.data.decode.npy import read_header
from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import Place
from layergraft.data.sources.source import Source
from layergraft.data.sources.stack import Array, open_stack
from layergraft.errors import UserError
from layergraft.runs.atomic import writing
from layergraft.runs.interruption import check

BLOCK = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip file: signature, lengths of its name and extra field


class NpyArray:
    """A saved array, read where it lies: a page of a map that was touched would count as memory of this process.

    Args:
        path: of the file that holds it.
        start: where it begins there.

    Raises:
        ValueError: it is damaged, or holds Python objects.
    """

    def __init__(self, path: str, start: int = 0) -> None:
        self._file = open_regular(path)
        self._file.seek(start)
        self.shape, fortran, self.dtype = read_header(self._file)
        self._first = self._file.tell()
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        if os.fstat(self._file.fileno()).st_size < self._first + size:
            raise ValueError("it is truncated")
        # Of the other order the numbers of a row lie apart.
        self._map = np.memmap(path, self.dtype, "r", self._first, self.shape, "F") if fortran and size else None

    def row(self, index: int) -> npt.NDArray[Any]:
        """One row."""
        if self._map is not None:
            return np.ascontiguousarray(self._map[index])
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        content = os.pread(self._file.fileno(), size, self._first + index * size)
        return np.frombuffer(content, dtype=self.dtype).reshape(self.shape[1:])

    def rows(self) -> npt.NDArray[Any]:
        """All of them."""
        return np.stack([self.row(index) for index in range(self.shape[0])])


def _refuse(path: str, error: Exception) -> UserError:
    return UserError(f"{path!r} cannot be read as NumPy arrays: {error}.", "Save it again with numpy.save or savez.")


def _open_array(path: str, shown: str, start: int = 0) -> NpyArray:
    try:
        return NpyArray(path, start)
    except (OSError, ValueError) as error:
        raise _refuse(shown, error) from None


def open_npy(spec: str, file: Place, chosen: Chosen) -> Source:
    """Open a `.npy` file; sample key = row."""
    return open_stack(spec, file.path, {file.name.removesuffix(".npy"): _open_array(file.path, file.path)}, chosen)


# What zipfile raises over a file that is none, is cut off, or is packed in a way that it does not know.
_BAD_ZIP = (OSError, zipfile.BadZipFile, NotImplementedError)
_BAD_CONTENT = (ValueError, EOFError, zlib.error, lzma.LZMAError)  # likewise, and its unpackers, over what is packed


def array_names(file: Place) -> list[str]:
    """Names of the arrays of a `.npz` file; none where it cannot be read."""
    try:
        with open_regular(file.path) as content, zipfile.ZipFile(content) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except _BAD_ZIP:
        return []


def open_npz(spec: str, file: Place, chosen: Chosen, index_directory: Path | None) -> Source:
    """Open a `.npz` file; sample key = row. What is compressed is unpacked once, beside the run or for the while."""
    temporary = None if index_directory else tempfile.TemporaryDirectory(prefix="layergraft-")
    directory = index_directory or Path(temporary.name if temporary else "")
    arrays: dict[str, Array] = {}
    try:
        with open_regular(file.path) as content, zipfile.ZipFile(content) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    arrays[member.filename.removesuffix(".npy")] = _Member(archive, member, file, directory)
    except _BAD_ZIP as error:
        raise _refuse(file.path, error) from None
    return open_stack(spec, file.path, arrays, chosen, keep=temporary)


class _Member:
    """An array of a zip file; its header is read at once, and it is unpacked when a row is wanted first."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Place, directory: Path) -> None:
        self.file, self.member = file, member
        self._array: NpyArray | None = None
        self._lock = threading.Lock()
        key = f"{file.path} {member.filename} {file.signature()}"
        self._unpacked = directory / f"{hashlib.blake2b(os.fsencode(key), digest_size=8).hexdigest()}.npy"
        try:
            with archive.open(member) as stream:
                self.shape, _, self.dtype = read_header(stream)  # type: ignore[arg-type]
        except (*_BAD_ZIP, *_BAD_CONTENT, RuntimeError) as error:  # RuntimeError: it has a password
            raise _refuse(file.path, error) from None

    def row(self, index: int) -> npt.NDArray[Any]:
        """One row."""
        return self._whole().row(index)

    def rows(self) -> npt.NDArray[Any]:
        """All of them."""
        return self._whole().rows()

    def _whole(self) -> NpyArray:
        with self._lock:
            if self._array is None:
                self._array = self._open()
        return self._array

    def _open(self) -> NpyArray:
        if self.member.compress_type == zipfile.ZIP_STORED:
            with open_regular(self.file.path) as stream:
                stream.seek(self.member.header_offset)
                signature, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
            if signature != b"PK\3\4":
                raise _refuse(self.file.path, zipfile.BadZipFile("a member is not where the directory says"))
            start = self.member.header_offset + _LOCAL_HEADER.size + name + extra
            return _open_array(self.file.path, self.file.path, start)
        if not self._unpacked.is_file():
            self._unpack()
        return _open_array(str(self._unpacked), self.file.path)

    def _unpack(self) -> None:
        partial = self._unpacked.with_suffix(f".{uuid4().hex}.part")
        try:
            with writing(self._unpacked):
                self._unpacked.parent.mkdir(parents=True, exist_ok=True)
                with open(partial, "wb") as out:
                    for block in self._blocks():
                        check()
                        out.write(block)
                os.replace(partial, self._unpacked)
        finally:
            partial.unlink(missing_ok=True)

    def _blocks(self) -> Iterator[bytes]:
        """What is packed, a block at a time."""
        try:
            with (
                open_regular(self.file.path) as content,
                zipfile.ZipFile(content) as archive,
                archive.open(self.member) as stream,
            ):
                while block := stream.read(BLOCK):
                    yield block
        except (*_BAD_ZIP, *_BAD_CONTENT) as error:
            raise _refuse(self.file.path, error) from None
