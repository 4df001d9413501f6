"""An image file made smaller: a JPEG of 8 bits of grey or colour; a TIFF of the same numbers of anything else."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from layergraft.data.arrays import Pixels
from layergraft.data.decode.colours import select
from layergraft.data.decode.jpeg import is_usual_jpeg
from layergraft.data.decode.picture import BadImage, Picture, Request, is_missing
from layergraft.data.decode.ranges import is_plain
from layergraft.data.fast_augment import resize_image
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError

QUALITY = 95


def shrunk(source: Source, key: int, channels: int, short: int) -> bytes:
    """The image with its shorter side at `short` where it is longer, with all of its depth and channels.

    Args:
        source: images.
        key: of the image.
        channels: 1 or 3, of a JPEG.
        short: in pixels.

    Raises:
        BadImage: it cannot be read, or says itself what is black and white, which nobody could say of the smaller one.
        UserError: it has more than 8 bits, or bands that are no colours, and tifffile is not installed.
    """
    images = source.images
    if isinstance(images, EncodedImages) and not is_usual_jpeg(images.read(key)):
        options = replace(source.options, range=None)
        picture = images.picture(key, Request(channels=channels, options=options, whole=True))
        if options.channels is not None:
            picture = select(picture, options.channels)
        bands = picture.colours + (picture.alpha is not None)
        if not (is_plain(picture) and picture.colours and picture.array.shape[2] == bands):
            if picture.range is not None and source.options.range is None:
                low, high = picture.range
                hint = f"give ?range=LOW,HIGH (its own is {low:g},{high:g})"
                raise BadImage(f"a window of its own, which a smaller file does not hold: {hint}")
            if not (picture.array.dtype == np.uint8 and picture.depth() < 8):
                return _tiff(picture, short, source.options.range is not None)
    return _jpeg(images.load(key, channels), short)


def _size(shape: tuple[int, ...], short: int) -> tuple[int, int]:
    scale = min(1.0, short / min(shape[:2]))
    height, width = (max(short, round(side * scale)) if scale < 1 else side for side in shape[:2])
    return height, width


def _jpeg(image: Pixels, short: int) -> bytes:
    image = resize_image(image, *_size(image.shape, short), "bicubic")
    if image.shape[2] == 3:
        image = image[:, :, ::-1]
    done, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return bytes(content)


def _tiff(picture: Picture, short: int, ranged: bool) -> bytes:
    """The numbers averaged over areas, in their own type; `ranged`: a `?range=` says what is white, not their bits."""
    try:
        import tifffile
    except ImportError:
        raise UserError(
            "Images of more than 8 bits, or of bands that are no colours, need tifffile to be written.",
            "Install it: pip install 'layergraft[tiff]'.",
        ) from None
    array = picture.array
    if array.dtype.kind not in "iuf":
        raise BadImage(f"{array.dtype} pixels, which cannot be shrunk")
    if picture.nodata is not None and is_missing(array, picture.nodata).any():
        raise BadImage(f"numbers that stand for no value ({picture.nodata:g}), which cannot be averaged")
    height, width = _size(array.shape, short)
    if (height, width) != array.shape[:2]:
        bands = [array[:, :, band].astype(np.float64) for band in range(array.shape[2])]
        smaller = np.stack([cv2.resize(band, (width, height), interpolation=cv2.INTER_AREA) for band in bands], axis=2)
        array = (np.rint(smaller) if array.dtype.kind in "iu" else smaller).astype(array.dtype)
    colour = picture.colours == 3
    how: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack", "metadata": None}
    if picture.alpha is not None:
        how["extrasamples"] = ["unassalpha"]
    if array.shape[2] > 1:
        how["planarconfig"] = "contig"
    if picture.bits is not None and 8 < picture.bits < 16:
        most = 2**picture.bits - 1  # what is above would lose its upper bits
        array = array if ranged else np.minimum(array, most)
        if array.max() <= most:
            how["bitspersample"] = picture.bits
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array if array.shape[2] > 1 else array[:, :, 0], **how)
    return buffer.getvalue()
