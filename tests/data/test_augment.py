"""The two paths: `exact` against torchvision's functions on Pillow images, `fast` against `exact` in distribution."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from layergraft.config import ViewConfig
from layergraft.data.augment import random_view
from layergraft.data.exact_augment import exact_view
from layergraft.data.fast_augment import blur_kernel, fast_view, resize_image
from layergraft.data.randomness import Randomness
from layergraft.data.view_parameters import DRAWS, ViewParameters, draw_parameters

PHOTO = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC
)
PHOTO = np.clip(PHOTO + np.random.default_rng(1).normal(0, 6, PHOTO.shape), 0, 255).astype(np.uint8)
SIZE = 64
PLAIN = ViewParameters(box=(5, 11, 90, 110), flip=False, jitter=(), gray=False, sigma=None, solarize=False)
OPERATIONS = {
    "bilinear": ({}, lambda view: view),
    "flip": ({"flip": True}, tv.hflip),
    "brightness": ({"jitter": (("brightness", 1.37),)}, lambda view: tv.adjust_brightness(view, 1.37)),
    "contrast": ({"jitter": (("contrast", 0.63),)}, lambda view: tv.adjust_contrast(view, 0.63)),
    "saturation": ({"jitter": (("saturation", 1.2),)}, lambda view: tv.adjust_saturation(view, 1.2)),
    "hue": ({"jitter": (("hue", -0.08),)}, lambda view: tv.adjust_hue(view, -0.08)),
    "order": (
        {"jitter": (("contrast", 1.4), ("brightness", 0.7))},
        lambda view: tv.adjust_brightness(tv.adjust_contrast(view, 1.4), 0.7),
    ),
    "gray": ({"gray": True}, lambda view: tv.rgb_to_grayscale(view, 3)),
    "blur": ({"sigma": 1.4}, lambda view: tv.gaussian_blur(view, len(blur_kernel(1.4)), 1.4)),
    "solarize": ({"solarize": True}, lambda view: tv.solarize(view, 128)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_exact_operations_are_torchvisions(name: str) -> None:
    changes, operation = OPERATIONS[name]
    ours = exact_view(PHOTO, replace(PLAIN, **changes), SIZE, "bilinear")
    cropped = tv.resized_crop(Image.fromarray(PHOTO), *PLAIN.box, [SIZE, SIZE], InterpolationMode.BILINEAR)
    assert np.abs(ours.astype(int) - np.asarray(operation(cropped))).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(5, 11, 90, 110), (20, 30, 40, 50), (0, 0, 120, 30)])
def test_both_paths_resize_as_pillow(interpolation: str, box: tuple[int, int, int, int]) -> None:
    mode = InterpolationMode(interpolation)
    expected = np.asarray(tv.resized_crop(Image.fromarray(PHOTO), *box, [SIZE, SIZE], mode)).astype(int)
    for make in (exact_view, fast_view):
        assert np.abs(make(PHOTO, replace(PLAIN, box=box), SIZE, interpolation) - expected).max() <= 1


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"hue", "order"}))
def test_fast_operations_are_the_exact_ones(name: str) -> None:
    changes, _ = OPERATIONS[name]
    parameters = replace(PLAIN, **changes)
    apart = np.abs(
        fast_view(PHOTO, parameters, SIZE, "bilinear").astype(int) - exact_view(PHOTO, parameters, SIZE, "bilinear")
    )
    # Solarize turns a difference of one grey level at 128 into one of at most 1 as well: 127 and 255 - 128 are equal.
    assert apart.max() <= 2
    assert apart.mean() <= 0.6


def test_fast_hue_turns_the_same_way_and_keeps_the_luma() -> None:
    red = np.full((8, 8, 3), (150, 90, 90), np.uint8)
    for shift in (0.08, -0.08):
        parameters = replace(PLAIN, box=(0, 0, 8, 8), jitter=(("hue", shift),))
        turned = fast_view(red, parameters, 8, "bilinear")[0, 0]
        hue = (colorsys.rgb_to_hsv(*(turned / 255))[0] + 0.5) % 1 - 0.5
        assert hue == pytest.approx(shift, abs=0.04)  # an angle in YIQ's plane is not quite one of HSV's
        weights = np.array([0.299, 0.587, 0.114])
        assert turned @ weights == pytest.approx(np.array([150, 90, 90]) @ weights, abs=1.5)


def test_grey_images_take_both_paths() -> None:
    grey = PHOTO[:, :, :1]
    config = ViewConfig(jitter=1, gray=0.5, blur=0.5, solarize=0.5)
    draws = Randomness(seed=0, scope="x").uniform("view", np.arange(20), 0, DRAWS)
    assert len(draws) == 20
    for own in draws:
        fast, exact = (random_view(grey, config, 32, own, path).astype(int) for path in ("fast", "exact"))
        assert fast.shape == exact.shape == (32, 32, 1)
        assert np.abs(fast - exact).mean() < 3  # clipped once instead of after each operation


ONE_OPERATION = {
    "crop": ViewConfig(),
    "brightness": ViewConfig(jitter=1, contrast=0, saturation=0, hue=0),
    "contrast": ViewConfig(jitter=1, brightness=0, saturation=0, hue=0),
    "saturation": ViewConfig(jitter=1, brightness=0, contrast=0, hue=0),
    "gray": ViewConfig(gray=0.5),
    "blur": ViewConfig(blur=1),
    "solarize": ViewConfig(solarize=0.5),
    "hue": ViewConfig(jitter=1, brightness=0, contrast=0, saturation=0),
}
# Hue turns YIQ's plane on one path and HSV's circle on the other, which keeps the largest channel instead of the luma:
# grey levels between the averages of a channel's mean, and the fraction between those of its variance.
HUE_MEAN, HUE_VARIANCE = 2.0, 0.15


def moments(config: ViewConfig, path: str, seed: int) -> np.ndarray:
    """Mean and variance of each channel of 1,000 views, of shape (1000, 6)."""
    draws = Randomness(seed=seed, scope="two samples").uniform("view", np.arange(1000), 0, DRAWS)
    small = [random_view(PHOTO, config, 32, own, path) for own in draws]
    pixels = np.stack(small).reshape(1000, -1, 3).astype(np.float64)
    return np.concatenate([pixels.mean(axis=1), pixels.var(axis=1)], axis=1)


@pytest.mark.parametrize("name", ONE_OPERATION)
def test_two_paths_have_the_same_distributions(name: str) -> None:
    """Independent draws for each path, one operation at a time (on top of the crop)."""
    config = ONE_OPERATION[name]
    fast, exact = moments(config, "fast", 1), moments(config, "exact", 2)
    for column in range(6):
        if name == "hue":
            mean, other = fast[:, column].mean(), exact[:, column].mean()
            assert abs(mean - other) < (HUE_MEAN if column < 3 else HUE_VARIANCE * other), column
        else:
            # 42 comparisons in all: at 0.001 each, one of 24 suites would fail by chance, and seeds are fixed.
            assert ks_2samp(fast[:, column], exact[:, column]).pvalue > 0.001, column


def test_crops_of_both_paths_have_the_same_distributions() -> None:
    draws = [Randomness(seed=s, scope="crops").uniform("view", np.arange(1000), 0, DRAWS) for s in (1, 2)]
    boxes = [np.array([draw_parameters(120, 160, ViewConfig(), own).box for own in part], float) for part in draws]
    for measure in (
        lambda b: b[:, 0] / np.maximum(120 - b[:, 2], 1),
        lambda b: b[:, 1] / np.maximum(160 - b[:, 3], 1),
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
    ):
        assert ks_2samp(measure(boxes[0]), measure(boxes[1])).pvalue > 0.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 64), (40, 60), (300, 52), (128, 512)])
def test_grey_is_resized_four_rows_at_a_time_as_torch_does(interpolation: str, size: tuple[int, int]) -> None:
    for shape in ((128, 129), (151, 190), (402, 233), (4, 5000)):
        image = np.random.default_rng(shape[0]).integers(0, 256, (shape[0] + 3, shape[1] + 7, 1), dtype=np.uint8)
        image = image[2:-1, 3:-4]  # a crop
        if interpolation == "bilinear" and shape[0] <= size[0] and shape[1] <= size[1]:
            continue  # OpenCV enlarges
        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(planes, size, mode=interpolation, antialias=True)[0]
        assert np.array_equal(resize_image(image, *size, interpolation), expected.permute(1, 2, 0).numpy())
