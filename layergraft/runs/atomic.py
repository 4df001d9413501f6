"""Files that are either whole or not there.

A process killed while it writes must leave the file before untouched. So a file is written beside its target, flushed,
renamed over it, and the directory flushed: a rename within a directory is atomic, but not yet on the disk.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from layergraft.errors import UserError


class Unconfirmed(UserError):
    """A file is in its place, whole, but the disk did not confirm that it would outlive a power failure."""

    def __init__(self, file: Path, error: OSError) -> None:
        super().__init__(
            f"{str(file)!r} is written, but the disk did not confirm it: {error.strerror}.",
            "After a power failure it may be what it was before. Mend the disk, and run the same command again.",
        )


def write_file(directory: Path, fill: Callable[[BinaryIO], str]) -> Path:
    """Write a file atomically.

    Args:
        directory: where; it is made if need be.
        fill: writes the content and returns the file's name.

    Raises:
        UserError: the disk is full or the directory cannot be written; the file before is untouched.
        Unconfirmed: the file is written, but flushing the directory failed.
    """
    temporary = directory / f".{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            target = directory / fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):  # in a directory that cannot be written
            temporary.unlink(missing_ok=True)
        raise cannot_write(directory, error) from None
    try:
        flush_directory(directory)
    except OSError as error:
        raise Unconfirmed(target, error) from None
    return target


def cannot_write(path: Path, error: OSError) -> UserError:
    """Say what a disk or permission is at fault for; to be raised."""
    return UserError(
        f"Cannot write to {str(path)!r}: {error.strerror}.",
        "Free space or permissions; what was saved before is intact. Then run the same command again.",
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes to a file that grows: name it where the system refuses.

    Args:
        path: of the file.

    Raises:
        UserError: the disk is full or the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def flush_directory(directory: Path) -> None:
    """Bring renames within a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that flushes no directories
            raise
    finally:
        os.close(descriptor)


_LEFTOVER = re.compile(r"\.\d+-\d+\.tmp|(index|[0-9a-f]+)\.[0-9a-f]{32}\.part")


def is_leftover(name: str) -> bool:
    """Whether a file's name is one of `write_file`, or of an index, for what is not whole yet."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(directory: Path) -> None:
    """Delete what a killed process was writing below a directory; nobody else may be writing there."""
    for pattern in (".*.tmp", "*.part"):
        for path in directory.rglob(pattern):
            if is_leftover(path.name):
                path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; see `write_file`."""

    def fill(file: BinaryIO) -> str:
        file.write(content)
        return path.name

    write_file(path.parent, fill)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; names of files that are not UTF-8 keep their bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))
