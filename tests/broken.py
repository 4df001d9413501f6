"""Files that are no images, in ten ways."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from layergraft.data.decode import MAX_PIXELS

SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8), (60, 40))


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims to be 30,000 by 30,000."""
    content = bytearray(save(Image.new("L", (8, 8)), "PNG"))
    content[16:24] = (30000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    assert MAX_PIXELS < 30000**2
    return bytes(content)


def broken_files(folder: Path) -> dict[str, str]:
    """Write ten kinds of files that are no image; name -> reason."""
    large = Image.fromarray(SMOOTH).resize((300, 200))
    jpeg, png = save(large, "JPEG"), save(large, "PNG")
    damaged = bytearray(png)
    damaged[len(png) // 2 : len(png) // 2 + 40] = b"\xff" * 40
    flat = bytearray(save(Image.new("RGB", (8, 8)), "BMP"))
    flat[18:26] = bytes(8)
    contents = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"no image at all", "not an image"),
        "page.png": (b"<html><body>404</body></html>", "not an image"),
        "header.jpg": (jpeg[:20], "not an image"),
        "damaged.png": (bytes(damaged), "damaged"),
        "bomb.png": (bomb(), "decompression bomb"),
        "flat.bmp": (bytes(flat), "not an image"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "link.jpg").symlink_to(folder / "vanished.jpg")
    return {name: reason for name, (_, reason) in contents.items()} | {
        "link.jpg": "unreadable: No such file or directory"
    }
