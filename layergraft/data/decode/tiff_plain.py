"""Grey TIFF pages of 16 bits without compression: their numbers lie in the file as they are, so nothing is copied."""

from __future__ import annotations

import numpy as np
from PIL import TiffImagePlugin as Tags

from layergraft.data.decode.picture import Picture, check_page, check_size
from layergraft.data.decode.tiff_tags import BLACK_IS_ZERO, Directory
from layergraft.data.orientation import orientation, upright

_BITS, _FILL_ORDER = 16, 266


def plain_page(content: bytes, tags: Directory, page: int | None) -> Picture | None:
    """The first page as a view of the file; None where it does not lie there in one piece.

    Args:
        content: the file.
        tags: of its only page.
        page: the one that is wanted, if any.

    Raises:
        BadImage: it has no pixels, too many, or no such page.
    """
    expected = {
        Tags.BITSPERSAMPLE: (_BITS,),
        Tags.PHOTOMETRIC_INTERPRETATION: BLACK_IS_ZERO,
        Tags.SAMPLESPERPIXEL: 1,
        Tags.COMPRESSION: 1,
        _FILL_ORDER: 1,
    }
    optional = {Tags.SAMPLESPERPIXEL, Tags.COMPRESSION, _FILL_ORDER}  # 1 is what they are where they are not there
    if any(tags.get(tag, value if tag in optional else None) != value for tag, value in expected.items()):
        return None
    check_page(page)
    height, width = tags.get(Tags.IMAGELENGTH), tags.get(Tags.IMAGEWIDTH)
    starts, sizes = tags.get(Tags.STRIPOFFSETS), tags.get(Tags.STRIPBYTECOUNTS)
    if not (isinstance(height, int) and isinstance(width, int) and starts and sizes and len(starts) == len(sizes)):
        return None
    check_size(height, width, len(content))
    size = height * width * _BITS // 8
    pieces = zip(starts[1:], starts, sizes, strict=False)
    whole = all(start == before + length for start, before, length in pieces) and sum(sizes) == size
    if not whole or starts[0] + size > len(content):
        return None
    array = np.ndarray((height, width, 1), ">u2" if content[:2] == b"MM" else "<u2", content, starts[0])
    return Picture(array=upright(array, orientation(lambda: tags)), colours=1, bits=_BITS)
