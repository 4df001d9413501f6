"""Pillow's AVIF reader raises errors of its own kind."""

from __future__ import annotations

import pytest
from broken import SMOOTH, save
from PIL import Image, features

from layergraft.data.decode import BadImage, decode


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_a_damaged_avif_is_no_bug() -> None:
    content, refused = save(Image.fromarray(SMOOTH), "AVIF"), 0
    for start in range(84, len(content), 7):
        try:
            decode(content[:start] + b"\xff" * 4 + content[start + 4 :], 3)
        except BadImage:
            refused += 1
    assert refused
