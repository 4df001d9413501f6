"""A hash of the images themselves, which is what cached features and other results that are kept belong to.

Features are the same wherever the same bytes lie, and never the same for other bytes, so the key holds a hash of the
files' content: copies and moved folders share features, whatever their times. Reading 5,000 photographs takes a second,
though, and looking at their state 0.05 s. So a hash is kept under the state it was read in (`Stamp`), and taken again
only where the kernel vouches that no byte changed since: local file systems, no change in the last seconds. Everywhere
else (network file systems, FUSE, disk images, macOS) every byte is read again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from layergraft.config.paths import read_regular
from layergraft.data.arrays import Labels
from layergraft.data.decode import BadImage
from layergraft.data.sources.file_state import Stamp
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import check

_THREADS, _IMAGES = 2, 256  # images of one task
_UNREADABLE = bytes(16)
_DIGEST = re.compile("[0-9a-f]{32}")


def cache_directory() -> Path | None:
    """`$LAYERGRAFT_CACHE`, or `~/.cache/layergraft`; None if the variable is `off`, or there is no home directory."""
    chosen = os.environ.get("LAYERGRAFT_CACHE")
    if chosen == "off":
        return None
    if chosen:
        return Path(os.path.expanduser(chosen)) / "features"
    home = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    # A user without an entry in the password file has no home, and keeps the `~`.
    return home / "layergraft" / "features" if home.is_absolute() else None


def results_identity(source: Source) -> str:
    """Changes with whatever decides what is learned from a source, or measured on it.

    That is which images are taken, their bytes, how they are read, their classes, and the bytes of their masks. Of
    images far away, whose reading is most of the work, the names stand for the bytes.

    Args:
        source: images, perhaps with labels and masks.

    Returns:
        32 hexadecimal digits.

    Raises:
        UserError: a mask cannot be read.
    """
    directory, keys, masks = cache_directory(), source.keys, source.masks
    labels = b"" if source.labels is None else source.labels[keys].astype("int64").tobytes()
    parts = (
        source.identity,
        keys.tobytes(),
        contents_of(source, directory),
        str(source.options),
        source.classes,
        labels,
        masks and _hashed(lambda: masks.stamp(keys), masks.read, keys, directory),
    )
    return hashlib.blake2b(repr(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def contents_of(source: Source, directory: Path | None) -> str | None:
    """Hash the images of a source in their order, or look up the hash.

    Args:
        source: images.
        directory: where hashes are kept under the state of the files; None keeps none.

    Returns:
        32 hexadecimal digits; None where the images lie far away, so that reading them is most of the work.
    """
    return _hashed(source.stamp, source.images.read, source.keys, directory)


def _hashed(
    stamp_now: Callable[[], Stamp | None], read: Callable[[int], bytes], keys: Labels, directory: Path | None
) -> str | None:
    """As `contents_of`, of files that `read` gives."""
    stamp = stamp_now()
    if stamp is None:
        return None
    if stamp.is_content:
        return stamp.text
    hash_file = directory / f"{stamp.text}.contents" if directory and stamp.certain else None
    if hash_file:
        try:
            text = read_regular(hash_file).decode("ascii")
        except (OSError, ValueError):
            text = ""
        if _DIGEST.fullmatch(text):
            return text
    contents, readable = _read(read, keys)
    # What cannot be read now may be readable to another user: that says nothing about the state of the file.
    if readable and hash_file and stamp_now() == stamp:
        with suppress(OSError, UserError):  # then it is read again next time
            write_text(hash_file, contents)
    return contents


def _read(read: Callable[[int], bytes], keys: Labels) -> tuple[str, bool]:
    """(hash of all files, whether all could be read)."""

    def digests(start: int) -> list[bytes]:
        hashes = []
        for key in keys[start : start + _IMAGES].tolist():
            try:
                hashes.append(hashlib.blake2b(read(key), digest_size=len(_UNREADABLE)).digest())
            except BadImage:
                hashes.append(_UNREADABLE)
        return hashes

    total, readable = hashlib.blake2b(digest_size=16), True
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="layergraft-contents") as pool:
        for part in pool.map(digests, range(0, len(keys), _IMAGES)):
            check()
            total.update(b"".join(part))
            readable &= _UNREADABLE not in part
    return total.hexdigest(), readable
