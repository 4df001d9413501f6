"""RandAugment's operations against timm's, called with the strength and sign that its random state would give."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from layergraft.config import RandAugmentConfig, ViewConfig
from layergraft.data.loader import TrainLoader
from layergraft.data.rand_augment import OPERATIONS, arguments, rand_augment
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source


def picture(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 20, channels), dtype=np.uint8)


def test_operations_are_timm_s() -> None:
    assert list(OPERATIONS) == auto_augment._RAND_INCREASING_TRANSFORMS


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("negate", [False, True])
def test_pixels_are_timm_s(monkeypatch: pytest.MonkeyPatch, name: str, negate: bool) -> None:
    image = Image.fromarray(picture(3))
    monkeypatch.setattr(auto_augment, "random", SimpleNamespace(random=lambda: 0.9 if negate else 0.1))
    geometry = {"interpolation": Image.Resampling.BICUBIC, "img_mean": (128, 128, 128)}
    for strength in (0.0, 3.3, 9.0):
        theirs = auto_augment.AugmentOp(name, prob=1.0, magnitude=strength, hparams=geometry)(image)
        level = arguments(name, strength, negate)
        options = {"resample": Image.Resampling.BICUBIC, "fillcolor": (128,) * 3}
        geometric = name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
        ours = auto_augment.NAME_TO_OP[name](image, *level, **(options if geometric else {}))
        assert np.array_equal(np.asarray(theirs), np.asarray(ours))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_at_full_strength(channels: int) -> None:
    config = RandAugmentConfig(operations=4, magnitude=10, deviation=3, probability=1)
    image = picture(channels)
    views = [rand_augment(image, config, np.random.default_rng(seed)) for seed in range(100)]
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[7], rand_augment(image, config, np.random.default_rng(7)))
    assert np.array_equal(rand_augment(image, RandAugmentConfig(probability=0), np.random.default_rng(0)), image)


@pytest.mark.parametrize("workers", [0, 3])
def test_loader_draws_by_sample(workers: int) -> None:
    def batches(count: int) -> list[np.ndarray]:
        loader = TrainLoader(
            open_source("builtin:fashion?fraction=0.01"),
            {"image": ViewConfig(rand_augment=RandAugmentConfig(fill=0))},
            size=28,
            channels=1,
            batch_size=16,
            random=Randomness(seed=0, scope="test"),
            skipped=SkippedImages(0),
            workers=count,
        )
        return [batch.views["image"].numpy() for batch in loader.batches(0, 9)]

    expected = batches(1)
    assert len(expected) > 0
    assert all(np.array_equal(a, b) for a, b in zip(batches(workers), expected, strict=True))
