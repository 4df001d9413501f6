"""Views of an image: random ones for training, the fixed one of evaluation."""

from __future__ import annotations

import numpy as np

from layergraft.config.data import Augment, ViewConfig
from layergraft.data.arrays import Pixels
from layergraft.data.exact_augment import exact_view
from layergraft.data.fast_augment import crop_view, fast_view, resize_image
from layergraft.data.view_parameters import Draws, ViewParameters, draw_parameters


def random_view(image: Pixels, config: ViewConfig, size: int, draws: Draws, augment: Augment = "fast") -> Pixels:
    """Make one view.

    Args:
        image: uint8 of shape (H, W, C).
        config: probabilities and ranges.
        size: side of the view.
        draws: `DRAWS` uniform numbers in [0, 1).
        augment: which path carries the parameters out.

    Returns:
        uint8 of shape (size, size, C).
    """
    parameters = draw_parameters(image.shape[0], image.shape[1], config, draws)
    make = exact_view if augment == "exact" else fast_view
    return make(image, parameters, size, config.interpolation)


def cropped_view(image: Pixels, config: ViewConfig, size: int, draws: Draws) -> tuple[Pixels, ViewParameters]:
    """The crop of the fast path's view, and the parameters of what is still to be done to it; arguments as above."""
    parameters = draw_parameters(image.shape[0], image.shape[1], config, draws)
    return crop_view(image, parameters, size, config.interpolation), parameters


def fixed_view(image: Pixels, size: int) -> Pixels:
    """The fixed view of evaluation: shorter side to size / 0.875, bicubic, centre crop; none at the right size."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    short = round(size / 0.875)
    scale = short / min(height, width)
    image = resize_image(image, max(short, round(height * scale)), max(short, round(width * scale)), "bicubic")
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
