"""One random view of an image.

A view is a pure function of the image and of uniform numbers that belong to the sample, drawn for a whole batch at
once (`DRAWS` for each image). Parameters have torchvision's definitions; pixels stay uint8.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from layergraft.config.data import ViewConfig

ATTEMPTS = 10
# Four numbers for each attempt at a crop; then flip, jitter and its four factors and order, grey, blur, solarize.
_FLIP = 4 * ATTEMPTS
_JITTER, _FACTORS, _ORDER = _FLIP + 1, _FLIP + 2, _FLIP + 6
_GRAY, _BLUR, _SIGMA, _SOLARIZE = _FLIP + 10, _FLIP + 11, _FLIP + 12, _FLIP + 13
DRAWS = _FLIP + 14

Pixels = npt.NDArray[np.uint8]
Draws = npt.NDArray[np.float64]
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
_LEVELS = np.arange(256, dtype=np.float32)


def crop_box(height: int, width: int, config: ViewConfig, draws: Draws) -> tuple[int, int, int, int]:
    """Where to crop: area and log aspect ratio uniform, ten attempts, else the largest centred crop.

    Returns:
        (top, left, height, width) in pixels.
    """
    low, high = math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])
    for scale, ratio, top, left in draws[:_FLIP].reshape(ATTEMPTS, 4).tolist():
        area = height * width * (config.crop_scale[0] + scale * (config.crop_scale[1] - config.crop_scale[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    aspect = min(max(width / height, config.crop_ratio[0]), config.crop_ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Resize (H, W, C); averages over the area where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height and image.shape[1] > width
    method = cv2.INTER_AREA if shrinks else _INTERPOLATION[interpolation]
    resized: Pixels = cv2.resize(image, (width, height), interpolation=method)
    return resized.reshape(height, width, -1)


def _table(levels: npt.NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _gray(image: Pixels) -> Pixels:
    if image.shape[2] == 1:
        return image
    gray: Pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return gray[:, :, None]


def _look_up(image: Pixels, table: Pixels) -> Pixels:
    looked_up: Pixels = cv2.LUT(image, table)
    return looked_up.reshape(image.shape)


def jitter(image: Pixels, config: ViewConfig, factors: Draws, order: Draws) -> Pixels:
    """Brightness, contrast, saturation and hue in a random order."""
    colour = image.shape[2] == 3
    for operation in np.argsort(order):
        spread = 2 * factors[operation] - 1
        if operation == 0 and config.brightness:
            image = _look_up(image, _table(_LEVELS * (1 + spread * config.brightness)))
        elif operation == 1 and config.contrast:
            mean = round(float(cv2.mean(_gray(image))[0]))
            image = _look_up(image, _table(mean + (_LEVELS - mean) * (1 + spread * config.contrast)))
        elif operation == 2 and config.saturation and colour:
            factor = 1 + spread * config.saturation
            gray = cv2.cvtColor(_gray(image), cv2.COLOR_GRAY2RGB)
            image = np.asarray(cv2.addWeighted(image, factor, gray, 1 - factor, 0), dtype=np.uint8)
        elif operation == 3 and config.hue and colour:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
            hsv[:, :, 0] += np.uint8(round(spread * config.hue * 256) % 256)
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), dtype=np.uint8)
    return image


def random_view(image: Pixels, config: ViewConfig, size: int, draws: Draws) -> Pixels:
    """Make one view.

    Args:
        image: uint8 of shape (H, W, C).
        config: probabilities and ranges.
        size: side of the view.
        draws: `DRAWS` uniform numbers in [0, 1).

    Returns:
        uint8 of shape (size, size, C).
    """
    top, left, height, width = crop_box(image.shape[0], image.shape[1], config, draws)
    view = resize(image[top : top + height, left : left + width], size, size, config.interpolation)
    if draws[_FLIP] < config.flip:
        view = view[:, ::-1]
    view = np.ascontiguousarray(view)
    if draws[_JITTER] < config.jitter:
        view = jitter(view, config, draws[_FACTORS:_ORDER], draws[_ORDER:_GRAY])
    if draws[_GRAY] < config.gray and view.shape[2] == 3:
        view = np.asarray(cv2.cvtColor(_gray(view), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if draws[_BLUR] < config.blur:
        sigma = config.blur_sigma[0] + draws[_SIGMA] * (config.blur_sigma[1] - config.blur_sigma[0])
        view = np.asarray(cv2.GaussianBlur(view, (0, 0), sigma), dtype=np.uint8).reshape(view.shape)
    if draws[_SOLARIZE] < config.solarize:
        view = np.where(view < 128, view, 255 - view)
    return view


def fixed_view(image: Pixels, size: int) -> Pixels:
    """The fixed view of evaluation: shorter side to size / 0.875, bicubic, centre crop; none at the right size."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    short = round(size / 0.875)
    scale = short / min(height, width)
    image = resize(image, max(short, round(height * scale)), max(short, round(width * scale)), "bicubic")
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
