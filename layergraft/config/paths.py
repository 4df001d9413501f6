"""Paths as a user writes them, and what may lie there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from layergraft.errors import UserError


def expanded(path: str | Path) -> Path:
    """A path in which `~` is a home directory, also where the shell left it (`--out=~/run`).

    Raises:
        UserError: nobody knows that home directory.
    """
    text = os.path.expanduser(path)
    if text.startswith("~"):
        first = text.partition("/")[0]
        raise UserError(
            f"The path {text!r} begins with {first!r}, and this machine knows no such home directory.",
            f"Write the whole path, or ./{text} for a folder that is called so.",
        )
    return Path(text)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of this machine for reading bytes.

    Raises:
        OSError: it cannot be opened, or is no regular file: a pipe or a device might block its reader for ever.
    """
    # Without O_NONBLOCK the opening itself would wait until somebody writes into a pipe.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _no_regular_file(path)
    return file


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The content of a file of this machine; raises `OSError` as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def check_regular(path: str | os.PathLike[str]) -> int:
    """Refuse what a library is to open itself, as `open_regular` does; returns its size in bytes."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise _no_regular_file(path)
    return status.st_size


def _no_regular_file(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "No regular file", str(path))
