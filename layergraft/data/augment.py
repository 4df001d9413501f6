"""Views of an image: random ones for training, the fixed one of evaluation."""

from __future__ import annotations

import numpy as np

from layergraft.config.data import Augment, ViewConfig
from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.arrays import Pixels
from layergraft.data.exact_augment import exact_view
from layergraft.data.fast_augment import crop_view, fast_view, resize_image
from layergraft.data.view_parameters import Draws, ViewParameters, draw_parameters


def random_view(image: Pixels, config: ViewConfig, size: ImageSize, draws: Draws, augment: Augment = "fast") -> Pixels:
    """Make one view.

    Args:
        image: uint8 of shape (H, W, C).
        config: probabilities and ranges.
        size: of the view.
        draws: `DRAWS` uniform numbers in [0, 1).
        augment: which path carries the parameters out.

    Returns:
        uint8 of shape (height, width, C) of the view.
    """
    parameters = draw_parameters(image.shape[0], image.shape[1], config, draws, size)
    make = exact_view if augment == "exact" else fast_view
    return make(image, parameters, size, config.interpolation)


def cropped_view(image: Pixels, config: ViewConfig, size: ImageSize, draws: Draws) -> tuple[Pixels, ViewParameters]:
    """The crop of the fast path's view, and the parameters of what is still to be done to it; arguments as above."""
    parameters = draw_parameters(image.shape[0], image.shape[1], config, draws, size)
    return crop_view(image, parameters, size, config.interpolation), parameters


def fixed_view(image: Pixels, size: ImageSize) -> Pixels:
    """The fixed view of evaluation: no side below size / 0.875, bicubic, centre crop; none at the right size."""
    height, width = image.shape[:2]
    view_height, view_width = height_and_width(size)
    if (height, width) == (view_height, view_width):
        return image
    least_height, least_width = round(view_height / 0.875), round(view_width / 0.875)
    scale = max(least_height / height, least_width / width)
    resized_height, resized_width = max(least_height, round(height * scale)), max(least_width, round(width * scale))
    image = resize_image(image, resized_height, resized_width, "bicubic")
    top, left = (image.shape[0] - view_height) // 2, (image.shape[1] - view_width) // 2
    return np.ascontiguousarray(image[top : top + view_height, left : left + view_width])
