"""Shards hold what their source holds, and what cannot be packed is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from broken import SMOOTH, save
from PIL import Image, features

from layergraft.data.pack import pack
from layergraft.data.sources import open_source

KINDS = ["GIF", "AVIF", "JPEG2000", "PNG", "BMP", "WEBP", "TIFF", "BigTIFF"]


def file_of(kind: str) -> bytes:
    if kind == "BigTIFF":
        buffer = io.BytesIO()
        pytest.importorskip("tifffile").imwrite(buffer, SMOOTH, bigtiff=True, photometric="rgb")
        return buffer.getvalue()
    return save(Image.fromarray(SMOOTH), kind)


def test_every_readable_file_is_packed_whatever_its_name(tmp_path: Path) -> None:
    """A file called .jpg is often none."""
    kinds = [kind for kind in KINDS if kind != "AVIF" or features.check("avif")]
    folder = tmp_path / "images"
    folder.mkdir()
    for kind in kinds:
        (folder / f"{kind}.jpg").write_bytes(file_of(kind))
    (folder / "broken.jpg").write_bytes(b"nothing")
    (folder / "vanished.jpg").symlink_to(folder / "nowhere.jpg")
    before = open_source(str(folder))
    packed = pack(str(folder), tmp_path / "packed", None, 3, 4)
    after = open_source(packed.source)
    assert (packed.images, packed.skipped, len(after)) == (len(kinds) + 1, 1, len(kinds) + 1)
    names = sorted(before.images.name(key) for key in range(len(before)))
    for key, name in enumerate(name for name in names if name != "vanished.jpg"):
        if name != "broken.jpg":
            assert np.array_equal(after.images.load(key, 3), before.images.load(names.index(name), 3)), name
