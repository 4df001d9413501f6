"""The random parameters of a view: drawn once, carried out by `fast`, `exact` or, for colours, a batch on a device.

Parameters have torchvision's definitions and are a pure function of uniform numbers that belong to the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layergraft.config.data import ViewConfig
from layergraft.config.encoder import ImageSize, height_and_width

ATTEMPTS = 10
# Four numbers for each attempt at a crop; then flip, jitter and its four factors and order, grey, blur, solarize.
_FLIP = 4 * ATTEMPTS
_JITTER, _FACTORS, _ORDER = _FLIP + 1, _FLIP + 2, _FLIP + 6
_GRAY = _FLIP + 10
_BLUR = _FLIP + 11
_SIGMA = _FLIP + 12
_SOLARIZE = _FLIP + 13
DRAWS = _FLIP + 14
LARGEST_REDUCTION = 8

Draws = npt.NDArray[np.float64] | list[float]  # Python's own numbers are read several times faster
Box = tuple[int, int, int, int]


def crop_box(height: int, width: int, config: ViewConfig, draws: Draws, size: ImageSize = 1) -> Box:
    """Where to crop: area and log aspect ratio uniform, ten attempts, else the largest centred crop.

    Args:
        height: of the image, in pixels.
        width: of the image.
        config: ranges of area and aspect ratio.
        draws: uniform numbers.
        size: of the view; only its width over its height counts, which the aspect ratio is relative to.

    Returns:
        (top, left, height, width) in pixels.
    """
    view_height, view_width = height_and_width(size)
    shape = view_width / view_height
    low, high = math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])
    for attempt in range(ATTEMPTS):
        scale, ratio, top, left = draws[4 * attempt : 4 * attempt + 4]
        area = height * width * (config.crop_scale[0] + scale * (config.crop_scale[1] - config.crop_scale[0]))
        aspect = math.exp(low + ratio * (high - low)) * shape
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    aspect = min(max(width / height, config.crop_ratio[0] * shape), config.crop_ratio[1] * shape)
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """What happens to one image; the operations are applied in the order of these fields.

    Args:
        box: the crop: (top, left, height, width) in pixels.
        flip: whether it is mirrored.
        jitter: `brightness`, `contrast`, `saturation` and `hue` in their random order, each with its factor (of hue:
            its shift, as a fraction of the full circle).
        gray: whether it turns grey.
        sigma: standard deviation of the blur in pixels of the view, or None.
        solarize: whether values from 128 up are inverted.
    """

    box: Box
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    gray: bool
    sigma: float | None
    solarize: bool


def draw_parameters(height: int, width: int, config: ViewConfig, draws: Draws, size: ImageSize = 1) -> ViewParameters:
    """Turn uniform numbers into the parameters of a view.

    Args:
        height: of the image, in pixels.
        width: of the image.
        config: probabilities and ranges.
        draws: `DRAWS` uniform numbers in [0, 1).
        size: of the view; only its width over its height counts.
    """
    jitter: list[tuple[str, float]] = []
    if draws[_JITTER] < config.jitter:
        ranges = (config.brightness, config.contrast, config.saturation, config.hue)
        for operation in sorted(range(4), key=lambda index: draws[_ORDER + index]):
            if ranges[operation]:
                shift = (2 * draws[_FACTORS + operation] - 1) * ranges[operation]
                name = ("brightness", "contrast", "saturation", "hue")[operation]
                jitter.append((name, shift if name == "hue" else 1 + shift))
    low, high = config.blur_sigma
    return ViewParameters(
        box=crop_box(height, width, config, draws, size),
        flip=draws[_FLIP] < config.flip,
        jitter=tuple(jitter),
        gray=draws[_GRAY] < config.gray,
        sigma=low + draws[_SIGMA] * (high - low) if draws[_BLUR] < config.blur else None,
        solarize=draws[_SOLARIZE] < config.solarize,
    )


def reduction(height: int, width: int, crops: list[tuple[ViewConfig, ImageSize, Draws]]) -> int:
    """How far an image may be reduced while it is decoded (1, 2, 4 or 8) so that no crop has to be enlarged for it.

    Crops are relative to the image, so the same draws choose the same region of the reduced image, up to rounding.

    Args:
        height: of the image, in pixels.
        width: of the image.
        crops: configuration, size in pixels and draws of each of its views.
    """
    heights, widths = zip(*(height_and_width(size) for _, size, _ in crops), strict=True)
    if height < 2 * min(heights) or width < 2 * min(widths):  # no crop has room for it
        return 1
    room = math.inf
    for (config, size, draws), view_height, view_width in zip(crops, heights, widths, strict=True):
        _, _, crop_height, crop_width = crop_box(height, width, config, draws, size)
        room = min(room, crop_height / view_height, crop_width / view_width)
    factor = 1
    while factor < LARGEST_REDUCTION and room >= 2 * factor:
        factor *= 2
    return factor
