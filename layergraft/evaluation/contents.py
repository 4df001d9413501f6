"""A hash of the images themselves, which is what cached features belong to.

Features are the same wherever the same bytes lie, and never the same for other bytes, so the key holds a hash of the
files' content: copies and moved folders share features, whatever their times. Reading 5,000 photographs takes a second,
though, and looking at their state 0.05 s. So a hash is kept under the state it was read in (`Stamp`), and taken again
only where the kernel vouches that no byte changed since: local file systems, no change in the last seconds. Everywhere
else (network file systems, FUSE, disk images, macOS) every byte is read again.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from layergraft.data.decode import BadImage
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import check

_THREADS, _IMAGES = 2, 256  # images of one task
_UNREADABLE = bytes(16)
_DIGEST = re.compile("[0-9a-f]{32}")


def contents_of(source: Source, directory: Path) -> str | None:
    """Hash the images of a source in their order, or look up the hash.

    Args:
        source: images.
        directory: where hashes are kept under the state of the files.

    Returns:
        32 hexadecimal digits; None where the images lie far away, so that reading them is most of the work.
    """
    stamp = source.stamp()
    if stamp is None:
        return None
    if stamp.is_content:
        return stamp.text
    hash_file = directory / f"{stamp.text}.contents"
    if stamp.certain:
        try:
            text = hash_file.read_text("ascii")
        except (OSError, ValueError):
            text = ""
        if _DIGEST.fullmatch(text):
            return text
    contents, readable = _read(source)
    # What cannot be read now may be readable to another user: that says nothing about the state of the file.
    if readable and stamp.certain and source.stamp() == stamp:
        with suppress(OSError, UserError):  # then it is read again next time
            write_text(hash_file, contents)
    return contents


def _read(source: Source) -> tuple[str, bool]:
    """(hash of all images, whether all could be read)."""

    def digests(start: int) -> list[bytes]:
        hashes = []
        for key in source.keys[start : start + _IMAGES].tolist():
            try:
                hashes.append(hashlib.blake2b(source.images.read(key), digest_size=len(_UNREADABLE)).digest())
            except BadImage:
                hashes.append(_UNREADABLE)
        return hashes

    total, readable = hashlib.blake2b(digest_size=16), True
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="layergraft-contents") as pool:
        for part in pool.map(digests, range(0, len(source), _IMAGES)):
            check()
            total.update(b"".join(part))
            readable &= _UNREADABLE not in part
    return total.hexdigest(), readable
