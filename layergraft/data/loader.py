"""Batches of random views in an order that depends on the seed alone.

Step n of a stage is a pure function of n, so there is no position to save, and any number of threads can prepare
steps ahead. Threads, not processes: OpenCV decodes and resizes outside Python's lock, and nothing has to be copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import torch

from layergraft.config.data import ViewConfig
from layergraft.data.augment import DRAWS, random_view
from layergraft.data.batch import Batch
from layergraft.data.rand_augment import rand_augment
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources import Source
from layergraft.randomness import Randomness


class TrainLoader:
    """The batches of one stage.

    Args:
        source: the training images.
        views: view name -> augmentation.
        size: side of a view that does not say its own, in pixels.
        channels: channels of a view.
        batch_size: images of a global batch; the last partial batch of an epoch is dropped.
        random: the stage's randomness.
        skipped: where unreadable images are counted.
        rank: this process takes the `rank`-th of `world_size` contiguous parts of each batch.
        world_size: number of processes.
        workers: threads that prepare batches; 0 prepares them when asked.
    """

    def __init__(
        self,
        source: Source,
        views: Mapping[str, ViewConfig],
        *,
        size: int,
        channels: int,
        batch_size: int,
        random: Randomness,
        skipped: SkippedImages,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
    ) -> None:
        self.source, self.views, self.size, self.channels = source, dict(views), size, channels
        self.batch_size, self.random, self.skipped = batch_size, random, skipped
        self.rank, self.world_size, self.workers = rank, world_size, workers
        self.steps_per_epoch = len(source) // batch_size
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def keys(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        """(epoch, this process's sample keys) of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        cached, order = self._order
        if cached != epoch:
            order = self.random.permutation("order", self.source.keys, epoch)
            self._order = (epoch, order)
        local = self.batch_size // self.world_size
        start = position * self.batch_size + self.rank * local
        return epoch, self.source.keys[order[start : start + local]]

    def batch(self, step: int) -> Batch:
        """Prepare one step."""
        epoch, keys = self.keys(step)
        images = [self.skipped.load(self.source, int(key), self.channels, self.random, epoch) for key in keys]
        views = {}
        for name, config in self.views.items():
            size = config.size or self.size
            draws = self.random.uniform(f"view {name}", keys, epoch, DRAWS)
            pixels = np.empty((len(keys), size, size, self.channels), dtype=np.uint8)
            for target, image, own in zip(pixels, images, draws, strict=True):
                target[...] = random_view(image, config, size, own)
            if config.rand_augment is not None:
                for target, own_random in zip(
                    pixels, self.random.generators(f"operations {name}", keys, epoch), strict=True
                ):
                    target[...] = rand_augment(target, config.rand_augment, own_random)
            # NumPy copies: a torch operation in this thread would start a second team of OpenMP threads beside the
            # step's own, and both would spin on the same cores.
            views[name] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        labels = None if self.source.labels is None else torch.from_numpy(self.source.labels[keys])
        return Batch(keys=keys, epoch=epoch, views=views, labels=labels, random=self.random)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` - 1, in order."""
        if self.workers == 0:
            yield from map(self.batch, range(start, stop))
            return
        cv2.setNumThreads(0)  # the images of a batch are the parallelism
        pending: deque[Future[Batch]] = deque()
        upcoming = iter(range(start, stop))
        with ThreadPoolExecutor(self.workers, thread_name_prefix="layergraft-data") as pool:
            try:
                for step in upcoming:
                    pending.append(pool.submit(self.batch, step))
                    if len(pending) > 2 * self.workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
