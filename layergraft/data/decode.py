"""From the bytes of a file to pixels.

JPEG goes through libjpeg-turbo's own interface, which can decode at reduced scale and reports damage; everything else
through Pillow, which knows palettes, CMYK and 16 bits; TIFF files of bands that are no colours need tifffile.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image as Pillow
from PIL import TiffImagePlugin, UnidentifiedImageError

from layergraft.data.arrays import Pixels
from layergraft.data.orientation import READER_ERRORS, orientation, orientation_of_jpeg, upright
from layergraft.errors import UserError

Reduction = Callable[[int, int], int]
# Pillow refuses more than this: 600 MB of RGB from a file of any size.
MAX_PIXELS = 178_956_970
# Huffman codes take at least one bit for each 8 × 8 block of a JPEG's finest channel. libjpeg fills what is missing
# with grey, however much it is: a file of a few bytes would take gigabytes. Small images are left to the decoder.
JPEG_PIXELS_PER_BYTE = 8 * 8 * 8
_SMALL = 2**20
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class BadImage(Exception):
    """A file that is no readable image; the text is the reason."""


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise BadImage("no pixels")
    if height * width > MAX_PIXELS:
        raise BadImage("decompression bomb")


def _decode_jpeg(content: bytes, channels: int, reduction: Reduction | None) -> Pixels | None:
    """A grey or RGB JPEG; None for any other, and for one that libjpeg finds fault with."""
    colourspace: Literal["GRAY", "RGB"] = "GRAY" if channels == 1 else "RGB"
    try:
        height, width, stored, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(height, width)
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


def _to_channels(image: Pillow.Image, channels: int) -> Pixels:
    """Pixels of a Pillow image. Transparent ones lie on white unless alpha is asked for (2 or 4 channels)."""
    if image.mode in _DEEP or image.mode == "I":
        deep = np.asarray(image.convert("I"))
        image = Pillow.fromarray((np.clip(deep, 0, 65535) >> 8).astype(np.uint8))
    elif image.mode in ("LAB", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "F":
        raise BadImage("floating-point pixels, whose range no one knows")
    if channels not in MODES:
        raise BadImage(f"{len(image.getbands())} channels instead of {channels}")
    if channels in (1, 3) and image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", colours.size, "white"), colours)
    return np.array(image.convert(MODES[channels]), dtype=np.uint8).reshape(image.height, image.width, channels)


def _decode_pillow(content: bytes, channels: int) -> Pixels:
    try:
        with Pillow.open(io.BytesIO(content)) as image:
            _check_size(image.height, image.width)
            if image.format == "TIFF" and image.mode == "I":  # a PNG of this mode has 16 bits
                raise BadImage("32-bit pixels, whose range no one knows")
            pixels = _to_channels(image, channels)  # loads it; some formats have their tags behind the pixels
            return upright(pixels, orientation(image.getexif))
    except UnidentifiedImageError:
        raise BadImage("not an image") from None
    except Pillow.DecompressionBombError:
        raise BadImage("decompression bomb") from None
    except READER_ERRORS as error:
        raise BadImage("truncated" if "truncated" in str(error) else "damaged") from None


def _tags_of_tiff(content: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Those of its first image."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b"+" in content[2:4] else 8])
    file = io.BytesIO(content)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _needs_tifffile(content: bytes, channels: int) -> bool:
    """Whether Pillow cannot give a TIFF file's pixels.

    It drops or refuses bands that are no colours; of 16 bits it mixes up planes that are not compressed, and takes
    white for black where that is 0.
    """
    if channels not in MODES:
        return True
    try:
        # Not from Pillow's image: there are bands for which it refuses to open one.
        tags = _tags_of_tiff(content)
        samples = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        if 16 in tags.get(TiffImagePlugin.BITSPERSAMPLE, ()):
            planar = samples > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
            plain = tags.get(TiffImagePlugin.COMPRESSION, 1) == 1
            if (planar and plain) or tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
                return True
        return bool(samples == channels > 1 and _bands(content) != channels)
    except READER_ERRORS:
        return False


def _bands(content: bytes) -> int:
    """How many channels Pillow would read, 0 where it does not know the layout."""
    try:
        with Pillow.open(io.BytesIO(content)) as image:
            return len(image.getbands())
    except (UnidentifiedImageError, Pillow.DecompressionBombError):
        return 0


def _decode_tiff(content: bytes, channels: int) -> Pixels:
    """A TIFF file of any number of channels, 8 or 16 bits deep: bands of its first image, or a stack of grey images."""
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f"A TIFF file needs tifffile to be read as {channels} channels.",
            "Install it: pip install 'layergraft[tiff]'.",
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0]
            bands = channels if channels not in MODES else page.samplesperpixel
            part = page if page.samplesperpixel == bands else file.series[0]
            _check_size(math.prod(part.shape) // bands, 1)  # of all of it, before it is decoded
            planes = part.asarray()
    except BadImage:
        raise
    except Exception as error:  # its readers raise whatever a damaged file leads them to
        missing = "compressed, which needs the package imagecodecs" if "imagecodecs" in str(error) else ""
        raise BadImage(missing or f"damaged ({type(error).__name__})") from None
    if planes.ndim == 2:
        planes = planes[:, :, None]
    if planes.ndim == 3 and planes.shape[2] != bands and planes.shape[0] == bands:
        planes = planes.transpose(1, 2, 0)
    if planes.ndim != 3 or planes.shape[2] != bands:
        raise BadImage(f"shape {planes.shape} instead of {bands} channels")
    if planes.dtype == np.uint16:
        planes = (planes >> 8).astype(np.uint8)
    if planes.dtype != np.uint8:
        raise BadImage(f"pixels of type {planes.dtype}")
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and bands == 1:
        planes = 255 - planes
    if bands != channels:
        if 0 in page.extrasamples:  # infrared or the like, which is in no colour
            planes = planes[:, :, : -len(page.extrasamples)]
        if planes.shape[2] not in MODES:
            raise BadImage(f"{bands} channels instead of {channels}")
        planes = _to_channels(Pillow.fromarray(planes if planes.shape[2] > 1 else planes[:, :, 0]), channels)
    return upright(np.ascontiguousarray(planes), orientation(partial(_tags_of_tiff, content)))


def decode(content: bytes, channels: int, reduction: Reduction | None = None) -> Pixels:
    """Decode an image file.

    Args:
        content: the file: JPEG, PNG, WebP, TIFF, BMP or what else Pillow reads; 16 bits are cut to their upper 8.
        channels: 1 gives grey, 2 grey and alpha, 3 RGB, 4 RGBA; any other number is that of a TIFF file, and bands of
            a TIFF file that are no such colours are taken as they are where there are as many.
        reduction: (height, width) -> 1, 2, 4 or 8: by how much a JPEG may be reduced. Where it is given, JPEGs are also
            decoded by libjpeg's faster transforms, a tenth quicker; else as Pillow decodes them.

    Returns:
        uint8 of shape (height, width, channels), turned as EXIF says.

    Raises:
        BadImage: empty, truncated, damaged, not an image, without pixels, or a decompression bomb.
    """
    if not content:
        raise BadImage("empty file")
    if content[:3] == b"\xff\xd8\xff":
        pixels = _decode_jpeg(content, channels, reduction)
        if pixels is not None:
            return pixels
    if content[:4] in _TIFF and _needs_tifffile(content, channels):
        return _decode_tiff(content, channels)
    return _decode_pillow(content, channels)


def match_channels(pixels: Pixels, channels: int) -> Pixels:
    """Pixels (H, W, C) of an array source with another number of channels: grey and RGB turn into each other."""
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] == 1 and channels == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if pixels.shape[2] == 3 and channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[:, :, None]
    raise BadImage(f"{pixels.shape[2]} channels instead of {channels}")
