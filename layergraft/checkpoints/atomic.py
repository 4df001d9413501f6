"""Files that are either whole or not there.

A process killed while it writes must leave the file before untouched. So a file is written beside its target, flushed,
renamed over it, and the directory flushed: a rename within a directory is atomic, but not yet on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from layergraft.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        UserError: the disk is full or the directory cannot be written; the file before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"Cannot write {str(path)!r}: {error.strerror}.",
            "Free space or permissions; what was saved before is intact.",
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())
