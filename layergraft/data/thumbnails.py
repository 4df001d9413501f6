"""Small pictures as data addresses, for pages and figures that show images."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from layergraft.data.arrays import Pixels

LARGEST = 112


def address(image: Pixels, largest: int = LARGEST) -> str:
    """uint8 (H, W, C) as a data address; shrunk where a side is longer than `largest`.

    Of images that are neither grey nor RGB the first channels are shown.

    PNG up to 48 pixels, where it is small and exact; WebP above.
    """
    if image.shape[2] not in (1, 3):
        image = np.ascontiguousarray(image[:, :, : 3 if image.shape[2] > 3 else 1])
    longest = max(image.shape[:2])
    if longest > largest:
        size = tuple(max(1, round(side * largest / longest)) for side in image.shape[1::-1])
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        image = image.reshape(*image.shape[:2], -1)
    flipped = image[:, :, ::-1] if image.shape[2] == 3 else image
    exact = max(image.shape[:2]) <= 48
    content = (
        cv2.imencode(".png", flipped)[1] if exact else cv2.imencode(".webp", flipped, [cv2.IMWRITE_WEBP_QUALITY, 80])[1]
    )
    return f"data:image/{'png' if exact else 'webp'};base64," + base64.b64encode(content.tobytes()).decode()
