"""PGM and PPM of more than 8 bits, whose numbers Pillow stretches; the rest by Pillow."""

from __future__ import annotations

import re

import numpy as np

from layergraft.data.decode.picture import BadImage, Picture, Request, check_page, check_size
from layergraft.data.decode.pillow import read_pillow

_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([2356])" + (_GAP + rb"(\d{1,9})") * 3 + rb"(?:#[^\n]*\n)?\s")
_LARGEST = 65535


def is_pnm(content: bytes) -> bool:
    """Whether a file is a grey or colour map, as numbers or as text."""
    return content[:1] == b"P" and content[1:2] in b"2356" and content[2:3].isspace()


def read_pnm(content: bytes, request: Request) -> Picture:
    """Read a PGM or PPM file; a largest value that is no power of two, less one, is its range.

    Raises:
        BadImage: it is damaged.
    """
    header = _HEADER.match(content)
    top = int(header[4]) if header else 0
    if header is None or not 255 < top <= _LARGEST:
        return read_pillow(content, request)
    check_page(request.options.page)
    kind, width, height = int(header[1]), int(header[2]), int(header[3])
    check_size(height, width, len(content))
    channels = 3 if kind in (3, 6) else 1
    shape, behind = (height, width, channels), content[header.end() :]
    count = height * width * channels
    if kind > 3:
        if len(behind) < 2 * count:
            raise BadImage("truncated")
        array = np.frombuffer(behind, ">u2", count).astype(np.uint16)
    else:
        words = behind.split(None, count)[:count]
        if len(words) < count:
            raise BadImage("truncated")
        if not all(word.isdigit() and len(word) <= len(str(_LARGEST)) for word in words):
            raise BadImage("damaged")
        array = np.minimum(np.array(words, dtype="S5").astype(np.uint32), _LARGEST).astype(np.uint16)
    full = top & (top + 1) == 0
    return Picture(
        array=np.minimum(array, top).reshape(shape),
        colours=channels,
        bits=top.bit_length(),
        range=None if full else (0, top),
    )
