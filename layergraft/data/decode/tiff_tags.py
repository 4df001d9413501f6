"""What the tags of a TIFF file say, read without tifffile, and whether Pillow can give its pixels."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import TiffImagePlugin

from layergraft.data.decode.colours import MODES
from layergraft.data.decode.picture import BadImage, Request

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLE_FORMAT, _GDAL_METADATA = 339, 42112
_GEO = (33550, 34264, 34735)  # scale, transformation, keys of a GeoTIFF
_UNSIGNED = {1, 4}  # 4 is "undefined", which means the same in practice
# Of Pillow's libtiff as it is distributed; others are read by imagecodecs alone.
_PILLOWS_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}
BLACK_IS_ZERO = 1
_WHITE_IS_ZERO, _RGB = 0, 2
_PALETTE, _YCBCR = 3, 6
_INKS = (_PALETTE, 5, _YCBCR, 8)  # and CMYK, Lab
ALPHAS = (1, 2)  # of ExtraSamples: associated, unassociated
_ITEM = re.compile(r'<Item name="(\w+)" sample="(\d+)"[^>]*>([^<]*)</Item>')

Directory = TiffImagePlugin.ImageFileDirectory_v2


def read_tags(content: bytes) -> Directory:
    """Those of the first image; raises one of `READER_ERRORS` where they cannot be read."""
    return tags_of(io.BytesIO(content))


def tags_of(file: BinaryIO) -> Directory:
    """As `read_tags`, of an open file."""
    start = file.read(16)
    tags = Directory(start[: 16 if b"+" in start[2:4] else 8])
    file.seek(tags.next)
    tags.load(file)
    return tags


def check_pages(file: BinaryIO) -> None:
    """Refuse a file whose pages follow one another in a circle, in which tifffile goes round for millions of pages.

    Raises:
        BadImage: they do.
    """
    start = file.read(4)
    big, order = b"+" in start[2:4], "<" if start[:1] == b"I" else ">"
    count, entry_bytes, offset = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
    at, seen = 8 if big else 4, set[int]()
    try:
        while True:
            file.seek(at)
            (directory,) = struct.unpack(offset, file.read(struct.calcsize(offset)))
            if directory == 0:
                return
            if directory in seen:
                raise BadImage("damaged (its pages run in a circle)")
            seen.add(directory)
            file.seek(directory)
            (entries,) = struct.unpack(count, file.read(struct.calcsize(count)))
            at = directory + struct.calcsize(count) + entries * entry_bytes
    except (struct.error, OverflowError, ValueError, OSError):  # beyond the end of the file
        return


@dataclass(frozen=True, kw_only=True)
class Geo:
    """What GDAL notes of bands.

    Args:
        located: whether the file is a GeoTIFF.
        interpretations: band -> colour interpretation (`Red`, `NIR`, `Alpha`).
        descriptions: band -> name.
    """

    located: bool
    interpretations: dict[int, str]
    descriptions: dict[int, str]


def geo_of(tags: Directory) -> Geo:
    """Read what GDAL notes of a file's bands."""
    notes = _ITEM.findall(str(tags.get(_GDAL_METADATA, "")))
    return Geo(
        located=any(tag in tags for tag in _GEO),
        interpretations={int(band): text for name, band, text in notes if name == "COLORINTERP"},
        descriptions={int(band): text for name, band, text in notes if name == "DESCRIPTION"},
    )


def suits_pillow(tags: Directory, request: Request) -> bool:
    """Whether Pillow gives what is wanted of a TIFF file.

    It drops or refuses pages, and bands that are no colours, and takes signed numbers for unsigned ones. Of 16 bits it
    mixes up planes that are not compressed, does not turn over grey whose 0 is white, and keeps 8 bits of colours.
    """
    samples = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    formats = tags.get(_SAMPLE_FORMAT, (1,))
    compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
    if not set(formats) <= _UNSIGNED or compression not in _PILLOWS_COMPRESSIONS or bits > 16:
        return False
    planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if photometric in _INKS:
        # It mixes up planes of YCbCr and of 16 bits that are not compressed, and takes a palette of 8 bits for black.
        mixed = planar and compression == 1 and samples > 1 and (bits > 8 or photometric == _YCBCR)
        return not mixed and (photometric != _PALETTE or max(tags.get(TiffImagePlugin.COLORMAP, (256,))) > 255)
    options = request.options
    if tags.next and (samples == 1 or options.page is not None or options.z is not None or request.whole):
        return False
    if samples == 1:
        return photometric == BLACK_IS_ZERO or (photometric == _WHITE_IS_ZERO and bits <= 8)
    if request.channels not in MODES:
        return False
    extras = tuple(tags.get(TiffImagePlugin.EXTRASAMPLES, ()))
    if samples == 2:
        return photometric == BLACK_IS_ZERO and bits == 8 and extras[:1] in ((1,), (2,))
    if photometric != _RGB or samples - len(extras) != 3 or len(extras) > 1:
        return False
    if bits > 8 and ((planar and compression == 1) or request.as_stored or options.range is not None):
        return False
    if not extras:
        return True
    if any(tag in tags for tag in (*_GEO, _GDAL_METADATA)):
        return False
    return extras[0] in ALPHAS or (not request.as_stored and request.channels in (1, 3))
