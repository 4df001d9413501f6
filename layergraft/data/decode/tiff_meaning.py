"""What the numbers of a TIFF file mean: which are colours, what channels are called, which number is no value."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin as Tags

from layergraft.data.decode.axes import Choice
from layergraft.data.decode.picture import TURNED, BadImage, Picture, Request
from layergraft.data.decode.tiff_tags import ALPHAS, Directory, geo_of

Array = npt.NDArray[Any]
ASSOCIATED = 1
ELSEWHERE = "planes of its image lie in other files: write OME-TIFF as one file"
# Compressions of which tifffile gives RGB where the file says YCbCr: JPEG's and those of Aperio.
_GIVE_RGB = {6, 7, 33003, 33004, 33005, 33007}
_NODATA = 42113
_OME = "<OME"


def channel_names(file: Any, number: int, choice: Choice, descriptions: dict[int, str]) -> tuple[str, ...] | None:
    """Names of the channels of a series, by OME, ImageJ or GDAL."""
    count = choice.channels
    names: list[str] = []
    if file.is_ome and file.ome_metadata:
        images = file.ome_metadata.split("</Image>")[:-1]  # one a series, unless a series has no pixels here
        image = images[number] if len(images) == len(file.series) or number == 0 else ""
        names = [
            unescape(match[1]) if (match := re.search(r'\bName="([^"]*)"', tag)) else ""
            for tag in re.findall(r"<Channel\b[^>]*>", image)
        ]
    elif file.is_imagej:
        labels = (file.imagej_metadata or {}).get("Labels") or []
        names = [str(label) for label in labels[:count]]
    elif descriptions:
        names = [descriptions.get(band, "") for band in range(count)]
    return tuple(names) if len(names) == count and any(names) else None


def meaning_of(keyframe: Any, choice: Choice, array: Array, tags: Directory) -> tuple[int, int | None, tuple[str, ...]]:
    """(how many of the first channels are colours, position of alpha if any, remarks)."""
    samples = choice.channel is not None and choice.axes[choice.channel] == "S"
    photometric = keyframe.photometric.name
    if not samples:
        return (0 if choice.channel is not None else 1), None, ()
    geo, count = geo_of(tags), array.shape[2]
    extras = [int(extra) for extra in keyframe.extrasamples]
    rgb = [geo.interpretations.get(band) for band in range(3)] == ["Red", "Green", "Blue"]
    colours = 3 if photometric in ("RGB", "YCBCR") or rgb else count - len(extras) if photometric != "MINISBLACK" else 0
    if photometric == "MINISBLACK" and count == 2 and extras and extras[0] in ALPHAS:
        colours = 1
    alpha = colours if colours and len(extras) == 1 and count == colours + 1 and extras[0] in ALPHAS else None
    named = geo.interpretations.get(3)
    if alpha == 3 and (geo.located or named) and named != "Alpha" and not is_opacity(array[:, :, 3]):
        said = () if named else ("a fourth band that counts as infrared, not as transparency",)
        return 3, None, said
    return colours, alpha, ()


def is_opacity(band: Array) -> bool:
    """Whether a band is opaque everywhere, or else nothing but opaque and transparent."""
    full = np.iinfo(band.dtype).max if band.dtype.kind in "iu" else 1
    opaque = band == full
    return bool(opaque.any() and (opaque | (band == 0)).all())


def unmultiplied(array: Array, alpha: int) -> Array:
    """Colours that were multiplied by their opacity, divided by it."""
    full = np.iinfo(array.dtype).max
    opacity = array[:, :, alpha : alpha + 1].astype(np.float64)
    colours = np.minimum(array[:, :, :alpha] * (full / np.maximum(opacity, 1)), full)
    return np.concatenate([np.rint(colours).astype(array.dtype), array[:, :, alpha:]], axis=2)


def looked_up(indices: Array, colormap: Array) -> Array:
    """Colours of 8 bits by a palette of shape (3, N); its entries have 16 bits, of some writers 8 (libtiff)."""
    colours = colormap >> 8 if colormap.max() > 255 else colormap
    return np.moveaxis(colours, 0, 1).astype(np.uint8)[indices.astype(np.intp)]


def check_colours(keyframe: Any) -> None:
    """Refuse colours that neither Pillow nor tifffile turns into RGB.

    Raises:
        BadImage: they are such.
    """
    photometric = keyframe.photometric.name
    if photometric in ("SEPARATED", "CIELAB") or (photometric == "YCBCR" and keyframe.compression not in _GIVE_RGB):
        raise BadImage(f"{photometric} colours that Pillow cannot read")


def _ome_of(tags: Directory) -> str:
    text = tags.get(Tags.IMAGEDESCRIPTION, "")
    return text if isinstance(text, str) and _OME in text else ""


def check_parts(tags: Directory, request: Request) -> None:
    """Refuse a file that holds a channel of an OME image whose others lie in other files, unless grey is wanted.

    Raises:
        BadImage: it is such.
    """
    ome = _ome_of(tags)
    if not ome or tags.next or (request.channels == 1 and request.options.channels is None):
        return
    several = len(set(re.findall(r'\bFileName="([^"]*)"', ome))) > 1
    if "<BinaryOnly" in ome or (several and any(count != "1" for count in re.findall(r'\bSizeC="(\d+)"', ome))):
        raise BadImage(ELSEWHERE)


def described(picture: Picture, tags: Directory) -> Picture:
    """A picture with what GDAL and OME say of its numbers: which is no value, and how many bits are significant."""
    said: dict[str, Any] = {}
    if _NODATA in tags and picture.array.dtype.kind in "uif" and not picture.turned:
        with suppress(ValueError):
            said["nodata"] = float(str(tags[_NODATA]).strip("\0 "))
    if picture.array.dtype == np.uint16 and picture.bits in (None, 16) and not picture.turned:
        bits = set(re.findall(r'\bSignificantBits="(\d+)"', _ome_of(tags)))  # of all images of the file, if they agree
        if len(bits) == 1 and 8 < int(*bits) < 16:
            said["bits"] = int(*bits)
    if picture.turned:
        said["remarks"] = (*picture.remarks, TURNED)
    return replace(picture, **said) if said else picture
