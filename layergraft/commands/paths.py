"""Paths as a command takes them."""

from __future__ import annotations

import os
from pathlib import Path


def as_path(path: str | Path) -> Path:
    """A path in which `~` is the home directory, also where the shell left it (`--out=~/run`)."""
    return Path(os.path.expanduser(path))


def optional_path(path: str | Path | None) -> Path | None:
    """The same, or None."""
    return None if path is None else as_path(path)
