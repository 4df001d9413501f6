"""A cache of features of its own for a test, and what is put into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from layergraft.config import EncoderConfig
from layergraft.data.sources import file_state

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=5, num_heads=2
)
SOURCE = "builtin:fashion-canvas?fraction=0.03"


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have features kept below a folder; files are trusted at once, when they are most alike."""
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(folder))
    monkeypatch.setattr(file_state, "_FRESH", 0)
    return folder / "features"
