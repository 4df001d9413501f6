"""Our views beside torchvision's and albumentations' on one core, quiet and beside a training step, into a JSON file.

Of 256 JPEGs of 500 x 375 pixels cut from scikit-learn's two sample photographs (quality 93, 65 KiB each), or of a
folder, as `layergraft bench data` does it; and what of our time decoding takes, decoding and resizing, and those with
the other calls of libraries that views of these pixels need: nothing of ours can be faster than they are.

    python tools/measure_views.py --out docs/performance/views.json
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from compare_loading import write_photos
from peer_figures import Row, write_rows

from layergraft.commands.bench.beside import training_beside
from layergraft.commands.bench.data import FilesInMemory, Pipeline, files_of, one_thread, pipelines, time_in_turn
from layergraft.config.data import ViewConfig
from layergraft.config.objectives import MaeConfig, MocoConfig
from layergraft.data.decode import decode
from layergraft.data.fast_augment import blur_kernel
from layergraft.data.randomness import Randomness
from layergraft.data.sources.open import open_source
from layergraft.data.view_parameters import DRAWS, ViewParameters, draw_parameters

SIZE, COUNT = 224, 512
ABOUT = {
    "title": "Views of JPEGs",
    "about": (
        "From the bytes of a file of 500 × 375 pixels to views of 224: processor time an image on one core, medians of "
        "rounds in turn, quiet and beside a training step of ViT-S/16 on the other core. Files of 65 KiB are cut from "
        "scikit-learn's photographs, those of 44 KiB from Debian's wallpapers."
    ),
    "command": "python tools/measure_views.py",
}
Floor = Literal["decoding", "decoding and resizing", "calls of libraries"]
MATRIX = np.full((3, 4), 0.25)


def library_calls(crop: np.ndarray, parameters: ViewParameters, target: list[np.ndarray], floor: Floor) -> None:
    """What torch and OpenCV do for one view of a crop that lies in one piece, without anything of ours."""
    pixels = torch.from_numpy(crop)
    planes = pixels.as_strided((1, 3, *crop.shape[:2]), (pixels.numel(), 1, *pixels.stride()[:2]))
    if crop.shape[0] <= SIZE and crop.shape[1] <= SIZE:
        view = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    else:
        resized = torch.nn.functional.interpolate(planes, (SIZE, SIZE), mode="bilinear", antialias=True)
        view = resized[0].permute(1, 2, 0).numpy()
    if floor == "decoding and resizing":
        return
    view = cv2.flip(view, 1) if parameters.flip else view
    view = cv2.transform(view, MATRIX) if parameters.jitter or parameters.gray else view
    if parameters.sigma is not None:
        kernel = blur_kernel(parameters.sigma)
        view = cv2.sepFilter2D(view, -1, kernel, kernel)
    cv2.split(view, target)


def floor_of(files: FilesInMemory, views: list[ViewConfig], floor: Floor) -> Pipeline:
    """A part of our pipeline alone, with parameters that are drawn beforehand."""
    images = [decode(content, 3).shape for content in files.contents]
    draws = Randomness(seed=0, scope="floor").uniform("view", np.arange(COUNT), 0, DRAWS)
    parameters = [
        [draw_parameters(height, width, view, draw, SIZE) for view, draw in zip(views, draws[2 * row :], strict=False)]
        for row, (height, width, _) in enumerate(images)
    ]
    target = list(np.empty((3, SIZE, SIZE), dtype=np.uint8))

    def make(chosen: list[int]) -> object:
        for index in chosen:
            image = decode(files.read(index), 3, lambda height, width: 1)
            for drawn in parameters[index] if floor != "decoding" else ():
                top, left, height, width = drawn.box
                crop = np.ascontiguousarray(image[top : top + height, left : left + width])
                library_calls(crop, drawn, target, floor)
        return None

    return make


def compare(folder: str, views: Literal["mae", "moco"], busy: bool, seconds: float) -> list[Row]:
    """One case: its rows."""
    files, _ = files_of(open_source(folder))
    configs = list((MocoConfig() if views == "moco" else MaeConfig()).views.values())
    candidates = pipelines(files, configs, SIZE, print)
    for floor in ("decoding", "decoding and resizing", "calls of libraries"):
        candidates[f"of ours, {floor} alone"] = floor_of(files, configs, floor)
    with one_thread(), training_beside(views, SIZE) if busy else nullcontext():
        rates = time_in_turn(candidates, len(files), seconds)
    size = np.mean([len(content) for content in files.contents]) / 1024
    name = {"moco": "two views (MoCo v3)", "mae": "one view (MAE)"}[views]
    case = f"{name}, JPEGs of {size:.0f} KiB, {'beside a training step' if busy else 'quiet'}"
    times = {kind: 1 / np.array(rounds) for kind, rounds in rates.items()}
    return [Row.of(case, kind, times["fast"], theirs) for kind, theirs in times.items() if kind != "fast"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of images in place of the photographs")
    parser.add_argument("--views", choices=("mae", "moco"), nargs="+", default=["moco", "mae"])
    parser.add_argument("--busy", type=int, choices=(0, 1), nargs="+", default=[0, 1], help="1: beside a training step")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each case")
    parser.add_argument("--out", type=Path, help="JSON file that gets the rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            write_photos(Path(folder))
        for views in arguments.views:
            for busy in arguments.busy:
                rows = compare(arguments.data or folder, views, bool(busy), arguments.seconds)
                for row in rows:
                    print(row, flush=True)
                if arguments.out:
                    packages = ("torch", "torchvision", "albumentations", "opencv-python-headless", "simplejpeg")
                    write_rows(arguments.out, ABOUT, packages, rows)


if __name__ == "__main__":
    main()
