"""Files by path, on this machine or on anything that fsspec opens."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import fsspec

from layergraft.config.paths import expanded, open_regular
from layergraft.data.arrays import Labels, Pixels
from layergraft.data.decode import BadImage, Reduction, decode
from layergraft.data.decode.npy import as_npy
from layergraft.data.decode.ome_zarr import OmeZarr
from layergraft.data.decode.picture import Picture, Request
from layergraft.data.decode.readers import as_levels, read_picture
from layergraft.data.decode.slide import SLIDE_SUFFIXES
from layergraft.data.sources.file_state import Stamp, stamp_files
from layergraft.data.sources.index import Names
from layergraft.data.sources.source import EncodedImages
from layergraft.errors import UserError

STORE = b"//"
OUTSIDE = "outside its folder (?root=DIR names another)"


def is_remote(place: str) -> bool:
    """Whether a place is a URL."""
    return "://" in place


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Place:
    """A file or folder, local or remote.

    Args:
        url: a path of this machine, or a URL that fsspec knows (`s3://bucket/folder`).
    """

    def __init__(self, url: str) -> None:
        self.remote = is_remote(url)
        try:
            self.fs, path = fsspec.core.url_to_fs(url if self.remote else os.path.abspath(expanded(url)))
        except Exception as error:  # see `reached`
            raise UserError(f"{url!r} cannot be opened: {error}.", "For s3://: pip install 'layergraft[s3]'.") from None
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

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turns what goes wrong with this place into `UserError`.

        The libraries behind URLs have no class of exceptions in common, so all of theirs count.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not (self.remote or isinstance(error, OSError)):
                raise
            hint = "Check the address, the network and your credentials." if self.remote else ""
            raise UserError(f"{self.path!r} cannot be read: {_reason(error)}.", hint) from None

    def exists(self) -> bool:
        with self.reached():
            return bool(self.fs.exists(self.path))

    def is_folder(self) -> bool:
        with self.reached():
            return bool(self.fs.isdir(self.path))

    def sizes(self) -> dict[str, int | None]:
        """Path -> size of what lies in a folder, as far as the file system tells."""
        with self.reached():
            try:
                return {entry["name"]: entry["size"] for entry in self.fs.ls(self.path, detail=True)}
            except FileNotFoundError:
                return {}

    def names(self) -> Iterator[str]:
        """Names of what lies in a folder; none where it cannot be listed."""
        if self.remote:
            yield from (path.rpartition("/")[2] for path in self.sizes())
            return
        try:
            with os.scandir(self.path) as entries:
                yield from (entry.name for entry in entries)
        except OSError:
            return

    def files(self) -> list[str]:
        """Paths of all files below a folder."""
        with self.reached():
            return [str(path) for path in self.fs.find(self.path)]

    def open(self) -> Any:
        """The file, for reading bytes; raises OSError, so that a block that fails once may be tried again."""
        try:
            return self.fs.open(self.path, "rb") if self.remote else open_regular(self.path)
        except OSError:
            raise
        except Exception as error:  # see `reached`
            raise OSError(_reason(error)) from None

    def signature(self) -> str:
        """Changes with the file's content, as far as the file system tells."""
        with self.reached():
            if self.remote:
                info = self.fs.info(self.path)
                return f"{info.get('size')} {info.get('ETag') or info.get('LastModified') or info.get('mtime')}"
            status = os.stat(self.path)
            return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"  # programs set an mtime, no ctime

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """Its bytes from `start` to `end`; raises `BadImage`."""
        try:
            if self.remote:
                content = bytes(self.fs.cat_file(self.path, start=start, end=end))
            else:
                with open_regular(self.path) as file:
                    file.seek(start or 0)
                    content = file.read(-1 if end is None else end - file.tell())
        except Exception as error:  # see `reached`; a path with a NUL is a ValueError
            raise BadImage(f"unreadable: {_reason(error)}") from None
        if start is not None and end is not None and len(content) != end - start:
            raise BadImage(f"unreadable: {len(content)} bytes came instead of {end - start}")
        return content


def path_below(root: Place, path: bytes) -> bytes | None:
    """A path below a root; None if it leads out of it."""
    if not root.remote and b".." not in path and not path.startswith(b"/"):
        return path
    # The root itself stays as it is: the slashes of a URL count.
    top = os.fsencode(root.path)
    path = os.path.relpath(os.path.join(top, path), top)
    return None if path.split(b"/")[0] == b".." else path


class FileImages(EncodedImages):
    """Image files below a folder; some may be OME-Zarr images, which are folders.

    Args:
        root: the folder; no path leads out of it.
        paths: relative paths; of an image in a store with two slashes behind the store: `cells.zarr//`,
            `plate.zarr//A/1/0`.
    """

    def __init__(self, root: Place, paths: Names) -> None:
        self.root, self.paths = root, paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        name = os.fsdecode(self.paths[index])
        return name if "//" not in name or self.root.remote else name.replace("//", "/").rstrip("/")

    def _store(self, index: int) -> str | None:
        """The folder of an OME-Zarr image; None for a file."""
        path = self.paths[index]
        if self.root.remote or not (STORE in path or path.endswith(b".zarr")):
            return None
        folder = os.path.join(self.root.path, self.name(index))
        return folder if self._path(index) is not None and os.path.isdir(folder) else None

    def _content(self, index: int) -> bytes | None:
        """The file; None of an OME-Zarr image, which is looked for last: most images are files."""
        try:
            file = self._file(index)
            if file.path.lower().endswith(SLIDE_SUFFIXES):
                raise BadImage("a whole slide: give ?tile=256&mpp=0.5")
            return file.read()
        except BadImage:
            if self._store(index) is None:
                raise
            return None

    def picture(self, index: int, request: Request) -> Picture:
        content = self._content(index)
        if content is not None:
            return read_picture(content, request)
        store = self._store(index)
        assert store is not None
        return OmeZarr(store, request.options.level or 0).picture(request)

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> Pixels:
        content = self._content(index)
        if content is not None:
            return decode(content, channels, reduction, self.options)
        request = Request(channels=channels, options=self.options)
        return as_levels(self.picture(index, request), request)

    def _path(self, index: int) -> bytes | None:
        """The path below the root; None if it leads out of it."""
        return path_below(self.root, self.paths[index])

    def stamp(self, keys: Labels) -> Stamp | None:
        if self.root.remote:
            return None
        root = os.fsencode(self.root.path).rstrip(b"/") + b"/"
        paths = list(map(self._path, keys.tolist()))
        stamp = stamp_files(None if path is None else root + path for path in paths)
        # A folder does not tell of changes in its files.
        return replace(stamp, certain=stamp.certain and not any(path and STORE in path for path in paths))

    def size(self, index: int) -> int | None:
        if self.root.remote:
            return None
        try:
            status = os.stat(os.path.join(self.root.path, self.name(index)))
        except (OSError, ValueError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def start(self, index: int, count: int) -> bytes:
        return self._file(index).read(0, count)

    def read(self, index: int) -> bytes:
        content = self._content(index)
        if content is not None:
            return content
        request = Request(channels=3, options=replace(self.options, range=None), whole=True)
        return as_npy(self.picture(index, request).array)

    def _file(self, index: int) -> Place:
        path = self._path(index)
        if path is None:
            raise BadImage(OUTSIDE)
        return self.root / os.fsdecode(path)
