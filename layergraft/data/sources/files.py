"""Files by path, on this machine or on anything that fsspec opens."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import fsspec

from layergraft.data.decode import BadImage
from layergraft.data.sources.index import Names
from layergraft.data.sources.source import EncodedImages, Labels
from layergraft.errors import UserError


def is_remote(place: str) -> bool:
    """Whether a place is a URL."""
    return "://" in place


class Place:
    """A file or folder, local or remote.

    Args:
        url: a path of this machine, or a URL that fsspec knows (`s3://bucket/folder`).
    """

    def __init__(self, url: str) -> None:
        self.remote = is_remote(url)
        try:
            self.fs, path = fsspec.core.url_to_fs(url if self.remote else os.path.abspath(os.path.expanduser(url)))
        except (ImportError, ValueError) as error:
            raise UserError(f"{url!r} cannot be opened: {error}.", "For s3:// install layergraft[s3].") from None
        self.path = str(path).rstrip("/") or "/"

    def __truediv__(self, name: str) -> Place:
        return self.at(f"{self.path.rstrip('/')}/{name}")

    @property
    def parent(self) -> Place:
        return self.at(self.path.rpartition("/")[0] or "/")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def at(self, path: str) -> Place:
        """Another path of the same file system."""
        other = object.__new__(Place)
        other.remote, other.fs, other.path = self.remote, self.fs, path
        return other

    def exists(self) -> bool:
        return bool(self.fs.exists(self.path))

    def is_folder(self) -> bool:
        return bool(self.fs.isdir(self.path))

    def open(self) -> Any:
        """The file, for reading bytes."""
        return self.fs.open(self.path, "rb")

    def signature(self) -> str:
        """Changes with the file's content, as far as the file system tells."""
        if self.remote:
            info = self.fs.info(self.path)
            return f"{info.get('size')} {info.get('ETag') or info.get('LastModified') or info.get('mtime')}"
        status = os.stat(self.path)
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """Its bytes from `start` to `end`; raises `BadImage`."""
        try:
            if not self.remote and start is None:
                with open(self.path, "rb") as file:
                    return file.read()
            return bytes(self.fs.cat_file(self.path, start=start, end=end))
        except OSError as error:
            raise BadImage(f"unreadable: {error.strerror or type(error).__name__}") from None


class FileImages(EncodedImages):
    """Image files below a folder.

    Args:
        root: the folder; no path leads out of it.
        paths: relative paths.
    """

    def __init__(self, root: Place, paths: Names) -> None:
        self.root, self.paths = root, paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.fsdecode(self.paths[index])

    def stamp(self, keys: Labels) -> str | None:
        """A hash of the files' sizes and times of change."""
        if self.root.remote:
            return None
        digest = hashlib.blake2b(digest_size=8)
        for key in keys.tolist():
            try:
                status = os.stat(os.path.join(self.root.path, self.name(key)))
                digest.update(f"{key} {status.st_size} {status.st_mtime_ns};".encode())
            except OSError:
                digest.update(f"{key} gone;".encode())
        return digest.hexdigest()

    def read(self, index: int) -> bytes:
        # The root itself stays as it is: the slashes of a URL count.
        name = os.path.relpath(os.path.join(self.root.path, self.name(index)), self.root.path)
        if name.split("/")[0] == "..":
            raise BadImage("outside its folder (?root=DIR names another)")
        return (self.root / name).read()
