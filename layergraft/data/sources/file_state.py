"""Tell whether files may have changed without reading them, and whether that can be relied on."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Local file systems whose kernel sets a file's ctime at every change and lets no program set it. Network ones answer
# from caches, and FUSE, squashfs or ISO images have made-up times that two data sets may share.
_KEEP_CTIME = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
_SECOND = 10**9
_STATE = struct.Struct("<QQqqq")
_NONE = bytes(_STATE.size)
_FRESH = 5 * _SECOND  # a change this recent may be followed by one at the same tick of the kernel's clock


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What some images were when they were last looked at.

    Args:
        text: 32 hexadecimal digits; changes when the images do, as far as can be told.
        certain: whether equal texts prove equal images.
        is_content: whether the text is a hash of the images themselves, equal for equal ones wherever they lie.
    """

    text: str
    certain: bool
    is_content: bool = False


def _file_systems() -> dict[int, str]:
    """Device number -> kind of file system; empty where the platform does not report it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return {}
    kinds = {}
    for line in lines:
        mount, _, kind = line.partition(" - ")
        major, _, minor = mount.split()[2].partition(":")
        kinds[os.makedev(int(major), int(minor))] = kind.split()[0]
    return kinds


def stamp_files(paths: Iterable[bytes | None]) -> Stamp:
    """Stamp files by device, inode, size, mtime and ctime; links are followed.

    Name, size and mtime alone are no identity: layers of one scan are equally large, and `cp -p`, `rsync -a` and
    archives set mtime. Nobody sets ctime. A copy is another file with another stamp.

    Args:
        paths: one for each image; None for one that must not be read.
    """
    kinds = _file_systems()
    states: list[bytes] = []
    devices: set[int] = set()
    newest, whole_seconds = 0, False
    for path in paths:
        try:
            if path is None:
                raise FileNotFoundError
            state = os.stat(path)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            states.append(_NONE)
            continue
        device, changed = state.st_dev, state.st_ctime_ns
        states.append(_STATE.pack(device, state.st_ino, state.st_size, state.st_mtime_ns, changed))
        devices.add(device)
        newest = max(newest, changed)
        if changed % _SECOND == 0:  # no clock made this: a coarse file system, or a reproducible image
            whole_seconds = True
    local = all(kinds.get(device) in _KEEP_CTIME for device in devices)
    certain = local and not whole_seconds and newest < time.time_ns() - _FRESH
    text = hashlib.blake2b(b"".join(states), digest_size=16).hexdigest()
    return Stamp(text=text, certain=certain)
