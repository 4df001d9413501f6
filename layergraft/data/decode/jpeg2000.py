"""JPEG 2000: by Pillow, which keeps 8 bits of colours; deeper ones, signed numbers and bands by imagecodecs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from layergraft.data.decode.codecs import deep_or_eight_bits, load_codecs
from layergraft.data.decode.colours import MODES
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
from layergraft.runs.readable import counted

STARTS = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")  # boxes around a code stream, or one alone
_HEADER = b"\xff\x4f\xff\x51"  # start of the code stream, and its first segment (ISO/IEC 15444-1, A.5.1)


class Header(NamedTuple):
    """What a code stream says of itself."""

    height: int
    width: int
    components: int
    bits: int
    signed: bool


def read_header(content: bytes) -> Header | None:
    """The header; None where there is none, or a part of one."""
    start = content.find(_HEADER)
    if start < 0 or len(content) < start + 45:
        return None
    right, bottom, left, top = np.frombuffer(content, ">u4", 4, start + 8).tolist()
    count = int.from_bytes(content[start + 40 : start + 42], "big")
    if count < 1:
        return None
    depths = content[start + 42 : start + 42 + 3 * count : 3]
    bits, signed = max((depth & 127) + 1 for depth in depths), any(depth > 127 for depth in depths)
    return Header(bottom - top, right - left, count, bits, signed)


def _deep(content: bytes, header: Header) -> Picture:
    size = header.height * header.width * header.components * (1 if header.bits <= 8 else 2 if header.bits <= 16 else 4)
    if size > MOST_BYTES:
        raise BadImage(
            f"{counted(header.components, 'channel')} of {header.height} by {header.width} pixels: more than 4 GiB"
        )
    codecs = load_codecs(f"JPEG 2000 of {header.bits} bits and {counted(header.components, 'channel')}")
    with damage_named():
        array = as_channels_last(np.asarray(codecs.jpeg2k_decode(content, numthreads=1)))
    count = array.shape[2]
    colours = {1: 1, 2: 1, 3: 3, 4: 3}.get(count, 0)
    bits = header.bits if array.dtype.kind == "u" else None
    return Picture(array=array, colours=colours, alpha=colours if count in (2, 4) else None, bits=bits)


def read_jpeg2000(content: bytes, request: Request) -> Picture:
    """Read a JPEG 2000 file or code stream.

    Raises:
        BadImage: it is damaged, or needs imagecodecs.
    """
    header = read_header(content)
    if header is None:
        return read_pillow(content, request)  # which names the damage
    check_size(header.height, header.width, len(content))
    check_page(request.options.page)
    if header.signed or header.components not in MODES or header.bits > 16:
        return _deep(content, header)
    if header.bits <= 8 or header.components == 1:
        return read_pillow(content, request)
    return deep_or_eight_bits(lambda: _deep(content, header), content, header.bits, request)
