"""AVIF: by Pillow, which keeps 8 bits; those of 10 and 12 by imagecodecs where their depth counts."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image as Pillow

from layergraft.data.decode.codecs import deep_or_eight_bits, load_codecs
from layergraft.data.decode.picture import (
    BadImage,
    Picture,
    Request,
    as_channels_last,
    check_page,
    check_size,
    damage_named,
)
from layergraft.data.decode.pillow import read_pillow
from layergraft.data.decode.stack import MOST_BYTES
from layergraft.data.orientation import orientation, upright

_HIGH, _TWELVE = 0x40, 0x20  # bits of the third byte of the configuration (AV1 in ISOBMFF, 2.3.3)
_CONFIGURATION = re.compile(rb"av1C\x81.(.)", re.DOTALL)


def is_avif(content: bytes) -> bool:
    """Whether a file's first box names AVIF among its brands."""
    end = min(int.from_bytes(content[:4], "big"), 256)
    return content[4:8] == b"ftyp" and any(brand in content[8:end] for brand in (b"avif", b"avis"))


def _depth(content: bytes) -> int:
    flags = [match[1][0] for match in _CONFIGURATION.finditer(content)]
    return max([12 if flag & _TWELVE else 10 if flag & _HIGH else 8 for flag in flags], default=8)


def _deep(content: bytes, bits: int, request: Request) -> Picture:
    codecs = load_codecs(f"AVIF of {bits} bits")
    with damage_named(), Pillow.open(io.BytesIO(content), formats=["AVIF"]) as image:
        check_size(image.height, image.width, len(content))
        lies, frames = orientation(image.getexif), getattr(image, "n_frames", 1)
        if 8 * image.height * image.width * frames > MOST_BYTES:
            raise BadImage(f"{frames} frames of {image.height} by {image.width} pixels: more than 4 GiB")
        array = np.asarray(codecs.avif_decode(content))  # all of them: with an index 2026.3.6 ends the process
        check_page(request.options.page, frames)
        array = as_channels_last(array[(request.options.page or 1) - 1] if frames > 1 else array)
    count = array.shape[2]
    colours = 1 if count < 3 else 3
    return Picture(array=upright(array, lies), colours=colours, alpha=colours if count in (2, 4) else None, bits=bits)


def read_avif(content: bytes, request: Request) -> Picture:
    """Read an AVIF file.

    Raises:
        BadImage: it is damaged, or needs imagecodecs.
    """
    bits = _depth(content)
    if bits == 8:
        return read_pillow(content, request)
    return deep_or_eight_bits(lambda: _deep(content, bits, request), content, bits, request)
