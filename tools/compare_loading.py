"""Threads or processes, and decoded images kept or not: images/s of the loader with the same batches, in turn.

Sources: JPEGs of 500 x 375 pixels (quality 93) cut from scikit-learn's two sample photographs, with MoCo v3's two views
at 224 pixels, and the built-in images with the demo's. Processes are torch's DataLoader, a whole batch a task, as for
threads; they send batches through shared memory. Prints a table: the median over rounds, and the time to the first
batch. Then a table of the JPEGs with `data.cache`, after an epoch that filled it, without workers.

    python tools/compare_loading.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import sklearn
import torch
from torch.utils.data import DataLoader, Dataset

from layergraft.config import MaeConfig, MocoConfig, ViewConfig, load_recipe
from layergraft.data.cache import decoded_once
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source

ROUNDS, FILES = 3, 256


class Steps(Dataset[dict[str, torch.Tensor]]):
    """The loader's batches by the number of their step."""

    def __init__(self, loader: TrainLoader, count: int) -> None:
        self.loader, self.count = loader, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        cv2.setNumThreads(0)
        return self.loader.batch(step).views


def by_processes(loader: TrainLoader, steps: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    yield from DataLoader(Steps(loader, steps), batch_size=None, num_workers=workers, prefetch_factor=2)


def by_threads(loader: TrainLoader, steps: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    loader.workers = workers
    yield from (batch.views for batch in loader.batches(0, steps))


def write_photos(folder: Path) -> None:
    photos = [cv2.imread(str(path)) for path in sorted(Path(sklearn.__file__).parent.glob("datasets/images/*.jpg"))]
    random = np.random.default_rng(0)
    for index in range(FILES):
        photo = photos[index % len(photos)]
        top, left = (
            int(random.integers(0, side - cut + 1)) for side, cut in zip(photo.shape, (375, 500), strict=False)
        )
        tile = photo[top : top + 375, left : left + 500]
        cv2.imwrite(str(folder / f"{index:03}.jpg"), tile, [cv2.IMWRITE_JPEG_QUALITY, 93])


def loader_of(source: Source, views: dict[str, ViewConfig], size: int, channels: int, batch: int) -> TrainLoader:
    return TrainLoader(
        source,
        views,
        size=size,
        channels=channels,
        batch_size=batch,
        random=Randomness(seed=0, scope="bench"),
        skipped=SkippedImages(0),
    )


def compare_workers(name: str, loader: TrainLoader, steps: int) -> None:
    """One kind of images, by threads and by processes."""
    measured: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for workers in (1, 2):
            for kind, make in (("threads", by_threads), ("processes", by_processes)):
                began = time.perf_counter()
                for step, _batch in enumerate(make(loader, steps, workers)):
                    if step == 0:
                        first = time.perf_counter() - began
                rate = loader.batch_size * steps / (time.perf_counter() - began)
                measured.setdefault(f"{workers} {kind}", []).append((rate, first))
    for kind, rows in measured.items():
        rate, first = np.median(rows, axis=0)
        print(f"| {name} | {kind} | {rate:.0f} | {first:.2f} |", flush=True)


def compare_caches(folder: str, directory: Path) -> None:
    """The JPEGs with their decoded images kept."""
    source = open_source(folder)
    for name, views in (("2 views (MoCo v3)", MocoConfig().views), ("1 view (MAE)", MaeConfig.views)):
        loaders = {}
        for kind in ("none", "ram", "disk"):
            images = decoded_once(source, kind, directory, lambda: None)
            loaders[kind] = loader_of(replace(source, images=images), views, 224, 3, 32)
        rates: dict[str, list[float]] = {kind: [] for kind in loaders}
        for turn in range(ROUNDS + 1):
            for kind, loader in loaders.items():
                steps, began = loader.steps_per_epoch, time.perf_counter()
                for step in range(steps):
                    loader.batch(turn * steps + step)
                if turn:  # the first one fills the cache
                    rates[kind].append(steps * 32 / (time.perf_counter() - began))
        print(f"| {name} | {' | '.join(f'{np.median(turns):.0f}' for turns in rates.values())} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        write_photos(photos)
        print("| images | workers | images/s | first batch (s) |\n|---|---|---|---|")
        compare_workers("JPEG, 2 x 224 px", loader_of(open_source(str(photos)), MocoConfig().views, 224, 3, 32), 16)
        views = load_recipe("fashion_tiny").stages["graft"].views
        compare_workers("built-in, 2 x 36 px", loader_of(open_source("builtin:fashion-canvas"), views, 36, 1, 64), 180)
        print("| images/s | none | ram | disk |\n|---|---|---|---|")
        compare_caches(str(photos), Path(folder) / "cache")


if __name__ == "__main__":
    main()
