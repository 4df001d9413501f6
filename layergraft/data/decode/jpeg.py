"""JPEG by libjpeg-turbo's own interface, which can decode at reduced scale and reports damage."""

from __future__ import annotations

from typing import Literal

import numpy as np
import simplejpeg

from layergraft.data.arrays import Pixels
from layergraft.data.decode.codecs import load_codecs
from layergraft.data.decode.picture import (
    BadImage,
    Picture,
    Reduction,
    Request,
    as_channels_last,
    check_page,
    check_size,
    damage_named,
)
from layergraft.data.decode.pillow import read_pillow
from layergraft.data.orientation import orientation_of_jpeg, segments_of_jpeg, upright
from layergraft.runs.readable import counted

START = b"\xff\xd8\xff"
_SCAN, _END, _JPEG_LS = b"\xff\xda", b"\xff\xd9", 0xF7
_FRAMES = {*range(0xC0, 0xD0), _JPEG_LS} - {0xC4, 0xC8, 0xCC}  # SOF; the others are tables
# Huffman codes take at least one bit for each 8 × 8 block of a JPEG's finest channel. libjpeg fills what is missing
# with grey, however much it is: a file of a few bytes would take gigabytes. Small images are left to the decoder.
JPEG_PIXELS_PER_BYTE = 8 * 8 * 8
_SMALL = 2**20


def decode_jpeg(content: bytes, channels: int, reduction: Reduction | None) -> Pixels | None:
    """A grey or RGB JPEG; None for any other, and for one that libjpeg finds fault with."""
    colourspace: Literal["GRAY", "RGB"] = "GRAY" if channels == 1 else "RGB"
    try:
        height, width, stored, _ = simplejpeg.decode_jpeg_header(content)
        check_size(height, width, len(content))
        if height * width > max(_SMALL, JPEG_PIXELS_PER_BYTE * len(content)):
            raise BadImage("its header claims more pixels than the file can hold")
        if stored == "CMYK" or channels not in (1, 3):
            return None
        lies = orientation_of_jpeg(content)
        factor = 1
        if reduction:
            factor = reduction(width, height) if lies > 4 else reduction(height, width)
        # It picks the smallest scale that has at least this size.
        least = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
        quick = reduction is not None
        pixels = simplejpeg.decode_jpeg(content, colourspace, quick, quick, min_height=least[0], min_width=least[1])
    except ValueError:
        return None
    return upright(np.asarray(pixels, dtype=np.uint8), lies)


def _is_grey(content: bytes) -> bool:
    try:
        return bool(simplejpeg.decode_jpeg_header(content)[2].upper() == "GRAY")
    except ValueError:
        return False


def _frame(content: bytes) -> tuple[int, int, int, int] | None:
    """(marker, bits, height, width) of the picture (ITU-T T.81, B.2.2); None where there is none."""
    for marker, start, end in segments_of_jpeg(content):
        if marker in _FRAMES and start + 6 <= min(end, len(content)):
            height, width = content[start + 1] << 8 | content[start + 2], content[start + 3] << 8 | content[start + 4]
            return marker, content[start], height, width
    return None


def is_usual_jpeg(content: bytes) -> bool:
    """Whether a file is a JPEG of 8 bits, which holds no more than `decode_jpeg` gives."""
    frame = _frame(content) if content.startswith(START) else None
    return frame is not None and frame[1] == 8


def _deep(content: bytes, bits: int, height: int, width: int) -> Picture:
    """Of 9 to 16 bits: lossy ones of 12, and lossless ones."""
    check_size(height, width, len(content))
    if height * width > max(_SMALL, JPEG_PIXELS_PER_BYTE * len(content)):
        raise BadImage("its header claims more pixels than the file can hold")
    codecs = load_codecs(f"a JPEG of {bits} bits")
    if content.rfind(_END) < content.find(_SCAN):  # it fills what is missing, without a word
        raise BadImage("truncated")
    with damage_named():
        array = as_channels_last(np.asarray(codecs.jpeg8_decode(content)))
    count = array.shape[2]
    if count not in (1, 3):
        raise BadImage(f"a JPEG of {bits} bits and {counted(count, 'channel')}")
    return Picture(array=upright(array, orientation_of_jpeg(content)), colours=count, bits=bits)


def read_jpeg(content: bytes, request: Request) -> Picture:
    """Read a JPEG that is wanted as it is stored, or that `decode_jpeg` leaves: CMYK, over 8 bits, damaged.

    Raises:
        BadImage: it is damaged.
    """
    if request.whole and request.options.page is None:
        channels = 1 if _is_grey(content) else 3
        pixels = decode_jpeg(content, channels, request.reduction)
        if pixels is not None:
            return Picture(array=pixels, colours=channels)
    frame = _frame(content)
    if frame is not None and frame[0] == _JPEG_LS:
        raise BadImage("JPEG-LS files are not read")
    if frame is not None and frame[1] > 8:
        check_page(request.options.page)
        return _deep(content, *frame[1:])
    return read_pillow(content, request)
