"""How the pixels of a file lie: the one EXIF tag that matters, read without minding how odd the others are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

_APP1, _SCAN, _FILL = 0xE1, 0xDA, 0xFF  # markers of a JPEG file
_EXIF, _SMALL = b"Exif\0\0", 8192
_TAG = 0x0112
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's codes; from 5 on, of the transposed image
# Pillow's readers raise whatever a damaged file leads them to.
READER_ERRORS = (
    OSError,
    RuntimeError,  # AVIF
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
)


def orientation(tags: Callable[[], Mapping[int, Any]]) -> int:
    """How the pixels lie, 1 to 8 as EXIF numbers it; 1 where the tags cannot be read. The others are not looked at."""
    try:
        value = tags().get(_TAG, 1)
    except READER_ERRORS:
        return 1
    return int(value) if value in range(1, 9) else 1


def _tags_of_exif(exif: bytes) -> Pillow.Exif:
    tags = Pillow.Exif()
    tags.load(exif)
    return tags


def segments_of_jpeg(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where the segment's content begins, where it ends) of those before the scan."""
    at = 2
    while at + 4 <= len(content) and content[at] == _FILL and content[at + 1] != _SCAN:
        if content[at + 1] == _FILL:
            at += 1
            continue
        end = at + 2 + (content[at + 2] << 8 | content[at + 3])
        yield content[at + 1], at + 4, end
        at = end


def orientation_of_jpeg(content: bytes) -> int:
    """That of its Exif segment, behind whatever others it lies."""
    if len(content) < _SMALL and _EXIF not in content:  # a search is quicker than the walk
        return 1
    for marker, start, end in segments_of_jpeg(content):
        if marker == _APP1 and content.startswith(_EXIF, start):
            return orientation(partial(_tags_of_exif, content[start:end]))
    return 1


def upright(pixels: npt.NDArray[Any], lies: int) -> npt.NDArray[Any]:
    """Turn pixels (H, W, C) as they are meant; 1 to 8 says how they lie, by EXIF's numbers."""
    # OpenCV does it several times as fast as a copy of strided pixels.
    if lies == 1:
        return pixels
    if pixels.dtype != np.uint8 or pixels.shape[2] > 4:  # of more it turns one band at a time alone
        turned = pixels.transpose(1, 0, 2) if lies > 4 else pixels
        for code in (_FLIPS[lies],) if lies in _FLIPS else ():
            turned = turned[::-1, ::-1] if code < 0 else turned[:, ::-1] if code else turned[::-1]
        return np.ascontiguousarray(turned)
    turned = cv2.transpose(pixels) if lies > 4 else pixels
    if lies in _FLIPS:
        turned = cv2.flip(turned, _FLIPS[lies])
    return np.asarray(turned, dtype=np.uint8).reshape(*turned.shape[:2], pixels.shape[2])
