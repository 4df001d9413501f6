"""Paths as a command takes them."""

from __future__ import annotations

from pathlib import Path

from layergraft.config.paths import expanded


def optional_path(path: str | Path | None) -> Path | None:
    """A path as `layergraft.config.paths.expanded` gives it, or None."""
    return None if path is None else expanded(path)
