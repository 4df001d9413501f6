"""Two views of a large uncompressed image, against what tifffile takes to read it.

Views of pixels as they are take little longer; those of a recipe are resized, which alone takes longer than reading:
`tools/compare_deep_views.py` measures who could do it quicker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.config.data import ViewConfig
from layergraft.data.augment import random_view
from layergraft.data.sources.open import open_source
from layergraft.data.view_parameters import DRAWS

SIDE, VIEW = 2048, 512
AS_THEY_ARE = ViewConfig(crop_scale=((VIEW / SIDE) ** 2, (VIEW / SIDE) ** 2), crop_ratio=(1.0, 1.0))


def seconds(work: Callable[[int], object], count: int = 12) -> float:
    """Processor time of some turns."""
    start = time.process_time()
    for turn in range(count):
        work(turn)
    return time.process_time() - start


@pytest.mark.soak
@pytest.mark.parametrize("query", ["", "?range=0,4095"])
@pytest.mark.parametrize(("config", "most"), [(AS_THEY_ARE, 1.5), (ViewConfig(), 5)])
def test_two_views_of_an_ome_tiff(query: str, config: ViewConfig, most: float, tmp_path: Path) -> None:
    tifffile, random = pytest.importorskip("tifffile"), np.random.default_rng(0)
    cv2.setNumThreads(1)
    for number in range(4):
        pixels = random.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
        file = tmp_path / f"{number}.ome.tif"
        tifffile.imwrite(file, pixels, ome=True, photometric="minisblack", metadata={"axes": "YX"})
    images, draws = open_source(f"{tmp_path}{query}").images, random.random((8, DRAWS)).tolist()
    files = sorted(tmp_path.glob("*.tif"))

    def views(turn: int) -> None:
        image = images.load(turn % 4, 1)
        for number in range(2):
            random_view(image, config, VIEW, draws[(2 * turn + number) % 8])

    ratios = []
    for _ in range(10):  # in turn, so that the load of the machine is shared
        theirs = seconds(lambda turn: tifffile.imread(files[turn % 4]))
        ratios.append(seconds(views) / theirs)
    print(f"two views take {np.median(ratios):.2f} times what tifffile.imread takes")
    assert np.median(ratios) <= most
