"""Pillow's AVIF reader raises errors of its own kind."""

from __future__ import annotations

import pytest
from broken import SMOOTH, save
from PIL import Image, features

from layergraft.data.decode import BadImage, decode


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("byte", [b"\xff", b"\0"])
def test_a_damaged_avif_is_no_bug(byte: bytes) -> None:
    content = save(Image.fromarray(SMOOTH), "AVIF")
    half = len(content) // 2
    with pytest.raises(BadImage):
        decode(content[:half] + byte * (len(content) - half), 3)
