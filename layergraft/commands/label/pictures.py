"""Images of a source as files that a browser shows."""

from __future__ import annotations

import cv2
import numpy as np

from layergraft.data.arrays import Pixels
from layergraft.data.sources.source import Source

CARD, LARGE = 480, 1600  # longest side in pixels
_EXACT = 96  # up to this side pictures are PNG


def picture(source: Source, row: int, channels: int, largest: int) -> tuple[str, bytes]:
    """Give one image as a file.

    Args:
        source: the images.
        row: position in the source.
        channels: of its pixels; of others than grey and RGB the first ones are shown.
        largest: longest side, in pixels.

    Returns:
        (media type, bytes).

    Raises:
        BadImage: it cannot be read.
    """

    def reduction(height: int, width: int) -> int:
        return next((factor for factor in (8, 4, 2) if max(height, width) >= 2 * largest * factor), 1)

    image: Pixels = source.images.load(int(source.keys[row]), channels, reduction)
    if channels not in (1, 3):
        image = image[:, :, : 3 if channels > 3 else 1]
    longest = max(image.shape[:2])
    if longest > largest:
        size = tuple(max(1, round(side * largest / longest)) for side in image.shape[1::-1])
        image = np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        image = image.reshape(*image.shape[:2], -1)
    pixels = np.ascontiguousarray(image[:, :, ::-1] if image.shape[2] == 3 else image)
    if max(image.shape[:2]) <= _EXACT:
        return "image/png", cv2.imencode(".png", pixels)[1].tobytes()
    return "image/jpeg", cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
