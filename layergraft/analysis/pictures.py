"""Images as figures show them: normalised ones as pixels, maps as colours over them."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from layergraft.data.arrays import Pixels
from layergraft.encoders.vit import Encoder


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
