"""Paths as a user writes them."""

from __future__ import annotations

import os
from pathlib import Path

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
