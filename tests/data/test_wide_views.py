"""Views that are wider than high: their crops have their proportions, whichever path makes them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from layergraft.config.data import ViewConfig
from layergraft.data.augment import fixed_view, random_view
from layergraft.data.masks import mask_view
from layergraft.data.view_parameters import DRAWS, crop_box, reduction

SIZE = (24, 72)
DRAWN = np.random.default_rng(0).random((200, DRAWS)).tolist()


@pytest.mark.parametrize(("height", "width"), [(300, 900), (400, 400), (900, 300)])
def test_crops_have_the_proportions_of_the_view(height: int, width: int) -> None:
    """Log-uniform around the view's 1 : 3, also where no attempt fits and the largest crop is taken."""
    config = ViewConfig(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3))
    boxes = np.array([crop_box(height, width, config, draws, SIZE) for draws in DRAWN])
    ratios = boxes[:, 3] / boxes[:, 2] / 3
    assert ratios.min() > 0.7
    assert ratios.max() < 1.4
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()


@pytest.mark.parametrize("augment", ["fast", "exact"])
def test_views_of_a_slope(augment: Literal["fast", "exact"]) -> None:
    """A whole crop of a picture with the view's proportions keeps where things are, and its mask goes along."""
    columns = np.broadcast_to(np.linspace(0, 250, 144, dtype=np.uint8), (48, 144))
    config = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    view = random_view(columns[:, :, None].copy(), config, SIZE, DRAWN[0], augment)[:, :, 0].astype(float)
    mask = mask_view(columns.copy(), config, SIZE, DRAWN[0]).astype(float)
    fixed = fixed_view(columns[:, :, None].copy(), SIZE)[:, :, 0]
    assert view.shape == mask.shape == fixed.shape == SIZE
    assert np.abs(view - mask).max() <= 3
    assert np.abs(view - np.linspace(1, 249, 72)).max() <= 3
    assert fixed[:, 0].max() > 0  # the middle seven eighths of each side
    assert abs(float(fixed.mean()) - 125) < 3


def test_images_are_reduced_as_far_as_both_sides_allow() -> None:
    whole = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    factors = [
        reduction(height, width, [(whole, SIZE, DRAWN[0])]) for height, width in ((192, 576), (96, 288), (40, 900))
    ]
    assert factors == [8, 4, 1]
