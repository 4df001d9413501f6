"""Batches of random views in an order that depends on the seed alone.

Step n of a stage is a pure function of n, so there is no position to save, and any number of threads can prepare
steps ahead. Threads, not processes: OpenCV decodes and resizes outside Python's lock, and nothing has to be copied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from layergraft.config.data import Augment, ViewConfig
from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.arrays import Pixels
from layergraft.data.augment import cropped_view, random_view
from layergraft.data.batch import Batch
from layergraft.data.device_augment import DeferredAugment
from layergraft.data.masks import mask_of, mask_view
from layergraft.data.order import epoch_order
from layergraft.data.rand_augment import rand_augment
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.source import Source
from layergraft.data.view_parameters import DRAWS, Draws, reduction


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A first part of a stage whose batches differ from the others.

    Args:
        stop: the step of the schedule that it ends before.
        size: of a view that does not say its own, in pixels; None is the loader's.
        keep_ratio: of its batches.
    """

    stop: int
    size: ImageSize | None
    keep_ratio: float | None


class TrainLoader:
    """The batches of one stage.

    Args:
        source: the training images.
        views: view name -> augmentation.
        size: of a view that does not say its own, in pixels.
        channels: channels of a view.
        batch_size: images of a global batch; the last partial batch of an epoch is dropped.
        random: the stage's randomness.
        skipped: where unreadable images are counted.
        rank: this process takes the `rank`-th of `world_size` contiguous parts of each batch.
        world_size: number of processes.
        workers: threads that prepare batches; 0 prepares them when asked.
        augment: which path makes the views.
        masks: whether the masks of the source are wanted, under the same views.
        finish: whether colour, blur and solarisation are done here; else they are left to `Batch.prepared`, but for
            views with RandAugment, which comes after them. Of the fast path alone.
        pin: whether views lie in page-locked memory, from which a GPU copies while others compute.
        phases: first parts of the stage, in order.
    """

    def __init__(
        self,
        source: Source,
        views: Mapping[str, ViewConfig],
        *,
        size: ImageSize,
        channels: int,
        batch_size: int,
        random: Randomness,
        skipped: SkippedImages,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        augment: Augment = "fast",
        masks: bool = False,
        finish: bool = True,
        pin: bool = False,
        phases: Sequence[Phase] = (),
    ) -> None:
        self.source = source
        self.views = dict(views)
        self.size, self.channels = size, channels
        self.batch_size = batch_size
        self.random, self.skipped = random, skipped
        self.rank, self.world_size, self.workers = rank, world_size, workers
        self.augment, self.masks, self.pin = augment, masks, pin
        self.phases = tuple(phases)
        self.unfinished = [name for name, view in views.items() if not finish and view.rand_augment is None]
        self.steps_per_epoch = len(source) // batch_size
        self._sorting = threading.Lock()
        self._order: tuple[int, npt.NDArray[np.integer]] = (-1, np.empty(0, dtype=np.int64))

    def keys(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        """(epoch, this process's sample keys) of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        with self._sorting:  # one thread sorts, the others wait for it
            cached, order = self._order
            if cached != epoch:
                blocks = self.source.blocks
                starts = None if blocks is None else blocks.starts
                order = epoch_order(self.random, self.source.keys, epoch, self.batch_size, starts)
                self._order = (epoch, order.astype(np.min_scalar_type(len(order))))  # half the memory
        local = self.batch_size // self.world_size
        start = position * self.batch_size + self.rank * local
        return epoch, self.source.keys[order[start : start + local]]

    def _views(
        self,
        row: int,
        key: int,
        epoch: int,
        unfinished: Mapping[str, DeferredAugment],
        draws: list[Draws],
        targets: list[Pixels],
        masks: list[Pixels],
    ) -> int:
        """Make every view of one image, and of its mask where `masks` has room for it.

        Args:
            row: of the batch.
            key: the image's.
            epoch: which pass over the data.
            unfinished: view name -> where what is left to the device is set.
            draws: uniform numbers of each view.
            targets: where each view goes, of shape (C, H, W).
            masks: where each view of the mask goes, of shape (H, W); empty where nobody asked.

        Returns:
            The key of the image that was read: `key`, or that of a replacement.
        """
        sizes: list[ImageSize] = [(target.shape[1], target.shape[2]) for target in targets]
        crops = list(zip(self.views.values(), sizes, draws, strict=True))
        # An image that is reduced while it is decoded would have another size than its mask.
        fast = self.augment == "fast" and not masks
        reduce = (lambda height, width: reduction(height, width, crops)) if fast else None
        read, image = self.skipped.load(self.source, key, self.channels, self.random, epoch, reduce)
        for name, (config, size, numbers), target in zip(self.views, crops, targets, strict=True):
            if name in unfinished:
                view, parameters = cropped_view(image, config, size, numbers)
                unfinished[name].set_row(row, view, parameters)
            else:
                view = random_view(image, config, size, numbers, self.augment)
            if config.rand_augment is not None:
                generator = self.random.generators(f"operations {name}", [key], epoch)[0]
                view = rand_augment(view, config.rand_augment, generator)
            cv2.split(view, list(target))
        if masks:
            mask = mask_of(self.source, read, image)
            for (config, size, numbers), target in zip(crops, masks, strict=True):
                target[:] = mask_view(mask, config, size, numbers)
        return read

    def batch(self, step: int, skipped: int = 0) -> Batch:
        """Prepare one step, which is `skipped` steps behind that of the schedule."""
        epoch, keys = self.keys(step)
        phase = next((phase for phase in self.phases if step - skipped < phase.stop), None)
        usual = self.size if phase is None or phase.size is None else phase.size
        if self.source.blocks is not None:
            self.source.blocks.announce(keys)
        draws = [self.random.uniform(f"view {name}", keys, epoch, DRAWS).tolist() for name in self.views]
        sizes = [height_and_width(config.size or usual) for config in self.views.values()]
        shapes = [(len(keys), self.channels, *size) for size in sizes]
        views = [torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin) for shape in shapes]
        pixels = [view.numpy() for view in views]
        unfinished = {
            name: DeferredAugment.identity(len(keys), self.channels, self.views[name]) for name in self.unfinished
        }
        masks = [np.empty((len(keys), *size), dtype=np.uint8) for size in sizes] if self.masks else []
        read = []  # the key of the image that was read in place of each
        for row, key in enumerate(keys.tolist()):
            draws_of_row = [numbers[row] for numbers in draws]
            targets = [images[row] for images in pixels]
            mask_targets = [images[row] for images in masks]
            read.append(self._views(row, key, epoch, unfinished, draws_of_row, targets, mask_targets))
        labels = None if self.source.labels is None else torch.from_numpy(self.source.labels[read].astype(np.int64))
        return Batch(
            keys=keys,
            epoch=epoch,
            views=dict(zip(self.views, views, strict=True)),
            labels=labels,
            random=self.random,
            masks={name: torch.from_numpy(mask) for name, mask in zip(self.views, masks, strict=False)},
            unfinished=unfinished,
            keep_ratio=None if phase is None else phase.keep_ratio,
        )

    def batches(self, start: int, stop: int, skipped: int = 0) -> Generator[Batch, None, None]:
        """The batches of steps `start` to `stop` - 1, in order; `skipped` as for `batch`."""
        if self.workers == 0:
            yield from (self.batch(step, skipped) for step in range(start, stop))
            return
        cv2.setNumThreads(0)  # the images of a batch are the parallelism
        pending: deque[Future[Batch]] = deque()
        upcoming = iter(range(start, stop))
        with ThreadPoolExecutor(self.workers, thread_name_prefix="layergraft-data") as pool:
            try:
                for step in upcoming:
                    pending.append(pool.submit(self.batch, step, skipped))
                    if len(pending) > 2 * self.workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
