"""Grey images of noise in two folders by class, one brighter than the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np


def write_two_classes(root: Path, counts: Mapping[str, int]) -> Path:
    """Write `PART/dark|light/NUMBER.png` of 36 x 36 pixels.

    Args:
        root: their folder.
        counts: part (`train`, `val`) -> how many images of each class.

    Returns:
        The folder that trains.
    """
    noise = np.random.default_rng(0)
    for part, count in counts.items():
        for name, bright in (("dark", 60), ("light", 190)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(noise.normal(bright, 50, (36, 36)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / part / name / f"{index}.png"), pixels)
    return root / "train"
