"""Two resized views of a large image of 16 bits without compression, against what tifffile takes to read it.

Asks whether some library averages the crops of a recipe quickly enough for both views to take 1.5 times as long as
`tifffile.imread`. Each candidate makes two views of 512 pixels from an image of 2048 x 2048, in turn with the others on
one core, of the same images and crops; prints the median ratio to `imread` (processor time). A candidate whose
name begins with "16" starts from the array as it lies in the file, "8" from grey levels in memory: neither counts what
comes before, so a whole view takes longer.

    python tools/compare_deep_views.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
import torch
from PIL import Image
from skimage.transform import downscale_local_mean

from layergraft.config.data import ViewConfig
from layergraft.data.augment import random_view
from layergraft.data.decode.picture import Request
from layergraft.data.fast_augment import resize_image
from layergraft.data.sources.open import open_source
from layergraft.data.view_parameters import DRAWS, draw_parameters

ROUNDS, TURNS, FILES, SIDE, VIEW = 12, 8, 4, 2048, 512
Array = npt.NDArray[Any]
AREA, LINEAR = cv2.INTER_AREA, cv2.INTER_LINEAR


def halved(crop: Array) -> Array:
    """Twice two numbers averaged: the one size for which OpenCV has a fast way."""
    height, width = (side // 2 for side in crop.shape[:2])
    return np.asarray(cv2.resize(crop[: 2 * height, : 2 * width], (width, height), interpolation=AREA))


def halved_by_numpy(crop: Array) -> Array:
    rows = np.add(crop[0:-1:2], crop[1::2], dtype=np.uint32)
    return np.asarray((rows[:, 0:-1:2] + rows[:, 1::2]) >> 2)


def torch_antialias(crop: Array) -> None:
    planes = torch.from_numpy(np.ascontiguousarray(crop))[None, None]
    torch.nn.functional.interpolate(planes, (VIEW, VIEW), mode="bilinear", antialias=True)


CANDIDATES: dict[str, Callable[[Array], object]] = {
    "8: each number summed once (cv2.sumElems), no view": cv2.sumElems,
    "16: each number summed once (cv2.sumElems), no view": cv2.sumElems,
    "16: each number summed once (numpy.add.reduce), no view": lambda crop: np.add.reduce(crop, None, dtype=np.uint64),
    "8: as layergraft resizes": lambda crop: resize_image(crop[:, :, np.newaxis], VIEW, VIEW, "bilinear"),
    "8: cv2.resize, INTER_AREA": lambda crop: cv2.resize(crop, (VIEW, VIEW), interpolation=AREA),
    "16: cv2.resize, INTER_AREA": lambda crop: cv2.resize(crop, (VIEW, VIEW), interpolation=AREA),
    "8: cv2.resize, INTER_AREA, to one half, not to the size": halved,
    "16: cv2.resize, INTER_AREA, to one half, not to the size": halved,
    "8: cv2.pyrDown, to one half, not to the size": cv2.pyrDown,
    "16: cv2.pyrDown, to one half, not to the size": cv2.pyrDown,
    "16: numpy, rows and columns added, to one half": halved_by_numpy,
    "8: Pillow, resize, BILINEAR": lambda crop: Image.fromarray(crop).resize((VIEW, VIEW), Image.Resampling.BILINEAR),
    "8: Pillow, reduce(2), to one half": lambda crop: Image.fromarray(crop).reduce(2),
    "8: torch, interpolate, antialias": torch_antialias,
    "16: scikit-image, downscale_local_mean(2), to one half": lambda crop: downscale_local_mean(crop, 2),
    "8: cv2.resize, INTER_LINEAR, which skips numbers": lambda crop: cv2.resize(crop, (VIEW, VIEW)),
    "16: cv2.resize, INTER_LINEAR, which skips numbers": lambda crop: cv2.resize(crop, (VIEW, VIEW)),
}


def whole_works(folder: Path) -> dict[str, Callable[[int], object]]:
    """From the file on, by the number of the turn."""
    images, config = open_source(str(folder)).images, ViewConfig()
    draws = np.random.default_rng(0).random((2 * TURNS, DRAWS)).tolist()
    files = sorted(folder.glob("*.tif"))
    request = Request(channels=1, options=images.options)  # type: ignore[attr-defined]

    def views(turn: int) -> None:
        image = images.load(turn % FILES, 1)
        for view in draws[2 * turn : 2 * turn + 2]:
            random_view(image, config, VIEW, view)

    def halved_first(turn: int) -> None:
        """Other pixels: numbers are averaged before their range is mapped, as it should not be."""
        picture = images.picture(turn % FILES, request)  # type: ignore[attr-defined]
        for box in boxes_of(draws[2 * turn : 2 * turn + 2]):
            crop = cut(picture.array[:, :, 0], box)
            if min(crop.shape) >= 2 * VIEW:
                crop = halved(crop)
            levels = cv2.convertScaleAbs(crop, alpha=1 / 256)
            resize_image(np.asarray(levels, dtype=np.uint8)[:, :, np.newaxis], VIEW, VIEW, "bilinear")

    return {
        "tifffile.imread": lambda turn: tifffile.imread(files[turn % FILES]),
        "whole: layergraft's views": views,
        "whole: opening and grey levels, no view": lambda turn: images.load(turn % FILES, 1),
        "whole: 16 bits halved, then levels and resizes": halved_first,
    }


def boxes_of(draws: list[list[float]]) -> list[tuple[int, int, int, int]]:
    return [draw_parameters(SIDE, SIDE, ViewConfig(), view, VIEW).box for view in draws]


def cut(image: Array, box: tuple[int, int, int, int]) -> Array:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def crop_works(folder: Path) -> dict[str, Callable[[int], object]]:
    """From the array on."""
    draws = np.random.default_rng(0).random((2 * TURNS, DRAWS)).tolist()
    deep = [tifffile.imread(file) for file in sorted(folder.glob("*.tif"))]
    flat = [(image >> 8).astype(np.uint8) for image in deep]

    def work(name: str, resize: Callable[[Array], object]) -> Callable[[int], object]:
        arrays = deep if name.startswith("16") else flat

        def both(turn: int) -> None:
            for box in boxes_of(draws[2 * turn : 2 * turn + 2]):
                resize(cut(arrays[turn % FILES], box))

        return both

    return {name: work(name, resize) for name, resize in CANDIDATES.items()}


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(FILES):
            pixels = random.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
            file = folder / f"{number}.ome.tif"
            tifffile.imwrite(file, pixels, ome=True, photometric="minisblack", metadata={"axes": "YX"})
        works = whole_works(folder) | crop_works(folder)
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                began = time.process_time()
                for turn in range(TURNS):
                    work(turn)
                seconds[name].append(time.process_time() - began)
    theirs = np.array(seconds["tifffile.imread"])
    print(f"tifffile.imread: {np.median(theirs) / TURNS * 1000:.2f} ms; times it:")
    for name, measured in seconds.items():
        print(f"| {name} | {np.median(np.array(measured) / theirs):.2f} |")


if __name__ == "__main__":
    main()
