"""What Pillow reads rightly: the formats of this list, and of them what it does not change on the way.

Other formats that it opens, it opens by the way: its FITS has bytes and offset wrong. They are refused by name.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from layergraft.data.decode.colours import convert
from layergraft.data.decode.others import name_of
from layergraft.data.decode.picture import MAX_PIXELS, BadImage, Picture, Request, as_channels_last, check_size
from layergraft.data.orientation import READER_ERRORS, orientation, upright

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "PPM", "GIF", "JPEG2000", "AVIF", "TGA", "PCX", "ICO")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_LARGEST = 65535
# The size of an image is checked here; and what Pillow logs of a file is said once, by the reason.
warnings.filterwarnings("ignore", category=Pillow.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin", category=UserWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@cache
def _formats() -> list[str]:
    """Those that this Pillow was built with."""
    Pillow.init()
    return [name for name in FORMATS if name in Pillow.OPEN]


def _open(content: bytes) -> Pillow.Image:
    try:
        return Pillow.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        with Pillow.open(io.BytesIO(content)) as other:
            raise BadImage(f"{other.format} files are not read") from None


def _depth_of_jpeg2000(content: bytes) -> int:
    """Bits of the first component, by the header of the code stream; 16 where there is none."""
    start = content.find(b"\xff\x4f\xff\x51")
    return 16 if start < 0 or len(content) <= start + 42 else (content[start + 42] & 127) + 1


def _whole_numbers(image: Pillow.Image, content: bytes) -> Picture:
    """Grey of more than 8 bits, as the numbers that the file has."""
    array: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "F":
        return Picture(array=as_channels_last(array), colours=1)
    if image.mode == "I" and image.format == "TIFF":  # a PNG or PGM of this mode has 16 bits
        return Picture(array=as_channels_last(array), colours=1)
    array = as_channels_last(np.clip(array, 0, _LARGEST).astype(np.uint16) if image.mode == "I" else array)
    if image.format == "TIFF":
        declared = image.tag_v2.get(258, (16,))  # type: ignore[attr-defined]
        return Picture(array=array, colours=1, bits=int(declared[0]))
    if image.format == "JPEG2000":  # Pillow has shifted them to 16 bits
        bits = _depth_of_jpeg2000(content)
        return Picture(array=array >> (16 - bits) if 8 < bits < 16 else array, colours=1, bits=max(bits, 9))
    return Picture(array=array, colours=1, bits=16)


def _deep_png(content: bytes) -> Picture | None:
    """Colours of 16 bits, of which Pillow keeps 8; None for any other file."""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[24:25] != b"\x10" or content[25:26] not in (b"\2", b"\4", b"\6"):
        return None
    with Pillow.open(io.BytesIO(content)) as image:
        image.verify()
    array: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise BadImage("damaged")
    alpha = array.shape[2] == 4
    array = cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if alpha else cv2.COLOR_BGR2RGB)
    return Picture(array=array, colours=3, alpha=3 if alpha else None)


def _as_stored(image: Pillow.Image) -> Picture:
    """All channels of an image of 8 bits; palettes and inks become colours."""
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    array = as_channels_last(np.array(image, dtype=np.uint8))
    alpha = image.mode.endswith("A")
    colours = array.shape[2] - alpha
    return Picture(array=array, colours=colours, alpha=colours if alpha else None)


def _turn_to_page(image: Pillow.Image, request: Request) -> tuple[str, ...]:
    """Go to the page that is wanted; what is to be said where there are several and none was chosen."""
    page = request.options.page
    if page is not None:
        try:
            image.seek(page - 1)
        except EOFError:
            raise BadImage(f"no page {page}: it has {getattr(image, 'n_frames', 1)}") from None
    elif request.whole and image.format not in ("MPO", "TIFF") and (count := getattr(image, "n_frames", 1)) > 1:
        return (f"{count} pages; the first is taken (?page=N takes another)",)
    return ()


def read_pillow(content: bytes, request: Request) -> Picture:
    """Read an image file with Pillow.

    Raises:
        BadImage: it is none, is damaged, or is of a format that is refused.
    """
    try:
        with _open(content) as image:
            check_size(image.height, image.width, len(content))
            remarks = _turn_to_page(image, request)
            deep = None
            if request.as_stored or request.options.range is not None:
                deep = _deep_png(content)
            if deep is not None:
                picture = deep
            elif image.mode in _DEEP:
                picture = _whole_numbers(image, content)
            elif request.as_stored:
                picture = _as_stored(image)
            else:
                assert request.channels is not None
                pixels = convert(image, request.channels)  # loads it; some formats have their tags behind the pixels
                picture = Picture(array=pixels, colours=request.channels if request.channels in (1, 3) else 0)
            lies = orientation(image.getexif)
            if lies == 1 and not remarks:  # most are: a small image notices every copy
                return picture
            return replace(picture, array=upright(picture.array, lies), remarks=remarks)
    except UnidentifiedImageError:
        other = name_of(content)
        raise BadImage(f"{other} files are not read" if other else "not an image") from None
    except Pillow.DecompressionBombError as error:
        number = re.search(r"\((\d+) pixels", str(error))
        check_size(int(number[1]) if number else MAX_PIXELS + 1, 1, len(content))
        raise BadImage("decompression bomb") from None
    except READER_ERRORS as error:
        raise BadImage("truncated" if "truncated" in str(error) else "damaged") from None
