"""From the bytes of a file to pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


class BadImage(Exception):
    """A file that is no readable image; the text is the reason."""


def decode(content: bytes, channels: int) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    Args:
        content: the file.
        channels: 1 gives grey, 3 RGB; an EXIF orientation is applied.

    Returns:
        uint8 of shape (height, width, channels).

    Raises:
        BadImage: empty, truncated or not an image.
    """
    if not content:
        raise BadImage("empty file")
    try:
        flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flag)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.size == 0:
        raise BadImage("not an image, or damaged")
    return np.asarray(pixels, dtype=np.uint8).reshape(*pixels.shape[:2], channels)
