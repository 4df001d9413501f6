"""RandAugment (Cubuk et al. 2020) with timm's operations and its increasing strengths.

timm draws from Python's global random state, which threads share, so a picture would depend on how many there are.
Here the choice, the strength and the sign come from the sample's own generator; the pixels are timm's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as PillowImage
from timm.data.auto_augment import NAME_TO_OP

from layergraft.config.data import RandAugmentConfig
from layergraft.data.arrays import Pixels

FULL = 10.0  # the strength at which an operation reaches its end
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
_GEOMETRIC = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}


def arguments(operation: str, strength: float, negate: bool) -> tuple[float, ...]:
    """What timm's operation takes for a strength between 0 and 10.

    Args:
        operation: one of `OPERATIONS`.
        strength: how much is done.
        negate: whether it goes the other way: left, darker, ...
    """
    share, sign = strength / FULL, -1.0 if negate else 1.0
    if operation in _GEOMETRIC:
        return (sign * share * _GEOMETRIC[operation],)
    if operation == "PosterizeIncreasing":
        return (max(1, 4 - int(share * 4)),)  # timm goes down to 0 bits, which Pillow refuses
    if operation == "SolarizeIncreasing":
        return (256 - min(256, int(share * 256)),)
    if operation == "SolarizeAdd":
        return (min(128, int(share * 110)),)
    if operation.endswith("Increasing"):
        return (max(0.1, 1.0 + sign * share * 0.9),)
    return ()


def rand_augment(image: Pixels, config: RandAugmentConfig, random: np.random.Generator) -> Pixels:
    """Apply random operations one after another.

    Args:
        image: uint8 of shape (H, W, C), grey or RGB.
        config: how many, how strong.
        random: the sample's generator.

    Returns:
        uint8 of the same shape.
    """
    channels = image.shape[2]
    picture = PillowImage.fromarray(image[:, :, 0] if channels == 1 else image)
    fill = config.fill if channels == 1 else (config.fill,) * 3
    for _ in range(config.operations):
        name = OPERATIONS[int(random.integers(len(OPERATIONS)))]
        applied, negate = random.random() < config.probability, random.random() < 0.5
        strength = float(np.clip(random.normal(config.magnitude, config.deviation), 0, FULL))
        if applied:
            geometry: dict[str, Any] = {}
            if name in _GEOMETRIC:
                geometry = {"fillcolor": fill, "resample": PillowImage.Resampling.BICUBIC}
            picture = NAME_TO_OP[name](picture, *arguments(name, strength, negate), **geometry)
    return np.asarray(picture, dtype=np.uint8).reshape(image.shape)
