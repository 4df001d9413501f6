"""Which reader takes a file, and the way from its bytes to what an encoder is given.

A further kind of file is one module with a function (content, Request) -> Picture, one row of `READERS`, and its ending
in `IMAGE_SUFFIXES` (`data/sources/source.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from layergraft.data.arrays import Pixels
from layergraft.data.decode import jpeg2000, npy
from layergraft.data.decode.avif import is_avif, read_avif
from layergraft.data.decode.colours import select, to_channels
from layergraft.data.decode.dicom import is_dicom, read_dicom
from layergraft.data.decode.fits import is_fits, read_fits
from layergraft.data.decode.jpeg import START, decode_jpeg, read_jpeg
from layergraft.data.decode.nifti import is_nifti, read_nifti
from layergraft.data.decode.options import ReadOptions
from layergraft.data.decode.picture import BadImage, Picture, Reduction, Request, check_slice
from layergraft.data.decode.pillow import read_pillow
from layergraft.data.decode.pnm import is_pnm, read_pnm
from layergraft.data.decode.ranges import to_levels
from layergraft.data.decode.tiff import read_tiff
from layergraft.data.decode.tiff_tags import STARTS

_PNG = b"\x89PNG\r\n\x1a\n"


class Reader(NamedTuple):
    """A kind of file.

    Args:
        name: what it is called.
        knows: whether a file is of this kind, by its first bytes.
        read: makes a picture of it, or raises `BadImage`.
    """

    name: str
    knows: Callable[[bytes], bool]
    read: Callable[[bytes, Request], Picture]


READERS = (
    Reader("JPEG", lambda content: content.startswith(START), read_jpeg),
    Reader("PNG", lambda content: content.startswith(_PNG), read_pillow),  # what most are is asked first
    Reader("NumPy array", lambda content: content.startswith(npy.START), npy.read_npy),
    Reader("TIFF", lambda content: content[:4] in STARTS, read_tiff),
    Reader("DICOM", is_dicom, read_dicom),
    Reader("FITS", is_fits, read_fits),
    Reader("NIfTI", is_nifti, read_nifti),
    Reader("JPEG 2000", lambda content: content.startswith(jpeg2000.STARTS), jpeg2000.read_jpeg2000),
    Reader("AVIF", is_avif, read_avif),
    Reader("PGM or PPM", is_pnm, read_pnm),
    Reader("image", lambda content: True, read_pillow),
)
_WITH_SLICES = {"TIFF", "DICOM", "FITS", "NIfTI"}  # which count them themselves
_PLAIN = ReadOptions()


def read_picture(content: bytes, request: Request) -> Picture:
    """Read a file by the first reader that knows it.

    Raises:
        BadImage: it is empty, damaged, or none that is known.
    """
    if not content:
        raise BadImage("empty file")
    if request.options.level:
        raise BadImage(f"no level {request.options.level}: levels are those of OME-Zarr")
    reader = next(reader for reader in READERS if reader.knows(content))  # the last knows all
    if reader.name not in _WITH_SLICES:
        check_slice(request.options.z)
    picture = reader.read(content, request)
    if picture.array.dtype.kind not in "buif":
        raise BadImage(f"{picture.array.dtype} pixels, which are no real numbers")
    return picture


def as_levels(picture: Picture, request: Request) -> Pixels:
    """What an encoder is given of a picture: its channels chosen, its numbers mapped, its colours converted.

    Raises:
        BadImage: the picture has other channels, or nobody knows its range.
    """
    options = request.options
    if options.channels is not None:
        picture = select(picture, options.channels)
    levels = to_levels(picture, options.fixed_range)
    # An array that is a view of the file is not writable, of which torch warns.
    return np.require(to_channels(levels, picture, request.channels), requirements=["C", "W"])


def decode(content: bytes, channels: int, reduction: Reduction | None = None, options: ReadOptions = _PLAIN) -> Pixels:
    """Decode an image file.

    Args:
        content: the file, of a kind in `READERS`; see `docs/images.md`.
        channels: 1 gives grey, 2 grey and alpha, 3 RGB, 4 RGBA; bands that are no such colours are taken as they are
            where there are as many.
        reduction: (height, width) -> 1, 2, 4 or 8: by how much a JPEG may be reduced. Where it is given, JPEGs are also
            decoded by libjpeg's faster transforms, a tenth quicker; else as Pillow decodes them.
        options: which channels, page and slice, and the range of more than 8 bits; without one the upper 8 are kept.

    Returns:
        uint8 of shape (height, width, channels), turned as EXIF says.

    Raises:
        BadImage: empty, truncated, damaged, not an image, without pixels, a decompression bomb, of another number of
            bands, or of numbers whose range nobody knows.
    """
    if content[:3] == START and options.channels is None and options.page is None and not options.level:
        check_slice(options.z)
        pixels = decode_jpeg(content, channels, reduction)
        if pixels is not None:
            return pixels
    request = Request(channels=channels, options=options)
    return as_levels(read_picture(content, request), request)
