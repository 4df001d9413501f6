"""Pixels as data addresses, for figures that show images."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from torch import Tensor

from layergraft.data.arrays import Pixels
from layergraft.encoders.vit import Encoder

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


def show(encoder: Encoder, image: Tensor) -> Pixels:
    """A normalised image (C, H, W) as uint8 pixels (H, W, C)."""
    levels = image.detach().cpu().permute(1, 2, 0) * Tensor(encoder.std) + Tensor(encoder.mean)
    return np.asarray((levels * 255).round().clamp(0, 255).byte().numpy(), dtype=np.uint8)


def colour(image: Pixels) -> Pixels:
    """(H, W, C) -> RGB: grey repeated, else the first channels, as `address` shows them."""
    return image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)


def heat(values: Tensor, image: Pixels, opacity: float = 0.6) -> Pixels:
    """A map of patches (rows, columns), from 0 to 1, as a colour over an image (H, W, C)."""
    levels = (values.detach().float().cpu().clamp(0, 1).numpy() * 255).round().astype(np.uint8)
    large = cv2.resize(levels, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    coloured = cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    return np.asarray(np.rint(opacity * coloured + (1 - opacity) * colour(image)), dtype=np.uint8)
