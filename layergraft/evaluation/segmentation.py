"""How well pixels are classified: sliding windows over whole images, at the masks' own resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.arrays import Mask, Pixels
from layergraft.data.fast_augment import resize_image
from layergraft.data.masks import pairs
from layergraft.data.sources.source import Source
from layergraft.runs.interruption import check

Predict = Callable[[Tensor], Tensor]
Counts = npt.NDArray[np.int64]
MOST_WINDOWS = 64
# Logits that a call of `predict` may give: 256 MiB, which three windows of 512 pixels and 80 classes take.
MOST_LOGITS = 2**26


def window_starts(length: int, size: int) -> list[int]:
    """Where windows of `size` start along a side, two thirds of it apart, the last at the end."""
    return [*range(0, length - size, max(1, 2 * size // 3)), length - size]


def windows_at_once(classes: int, size: ImageSize) -> int:
    """How many windows go through the network together."""
    return max(1, min(MOST_WINDOWS, MOST_LOGITS // (classes * math.prod(height_and_width(size)))))


def predict_classes(
    predict: Predict, images: list[Pixels], size: ImageSize, classes: int, zoom: float = 1.0
) -> Iterator[npt.NDArray[np.int64]]:
    """The class of every pixel of some images.

    Args:
        predict: uint8 windows (N, C, h, w) -> logits of shape (N, classes, h, w).
        images: uint8 of shape (H, W, C).
        size: of the windows; where they overlap, logits are averaged.
        classes: how many there are.
        zoom: how many windows an image is long on the side that has the fewest.

    Yields:
        Classes of shape (H, W), one for each image.
    """
    windows, places, totals = [], [], []
    rows, columns = height_and_width(size)
    for number, image in enumerate(images):
        scale = max(zoom * rows / image.shape[0], zoom * columns / image.shape[1])
        height, width = max(rows, round(image.shape[0] * scale)), max(columns, round(image.shape[1] * scale))
        scaled = resize_image(image, height, width, "bicubic")
        boxes = [(number, y, x) for y in window_starts(height, rows) for x in window_starts(width, columns)]
        windows += [np.ascontiguousarray(scaled[y : y + rows, x : x + columns].transpose(2, 0, 1)) for _, y, x in boxes]
        places += boxes
        totals.append((torch.zeros(classes, height, width), torch.zeros(height, width)))
    several = windows_at_once(classes, size)
    for start in range(0, len(windows), several):
        check()
        logits = predict(torch.from_numpy(np.stack(windows[start : start + several])))
        for (number, y, x), window_logits in zip(places[start : start + several], logits, strict=True):
            total, times = totals[number]
            total[:, y : y + rows, x : x + columns] += window_logits
            times[y : y + rows, x : x + columns] += 1
    for image, (total, times) in zip(images, totals, strict=True):
        full = F.interpolate((total / times)[None], image.shape[:2], mode="bilinear", align_corners=False)
        yield full[0].argmax(0).numpy()


def confusion(
    predict: Predict, source: Source, classes: int, size: ImageSize, channels: int, zoom: float = 1.0
) -> Counts:
    """Pixels by true and predicted class, of shape (classes, classes); ignored pixels are left out."""
    counts = np.zeros(classes * classes, dtype=np.int64)
    stream = pairs(source, channels)
    while batch := list(islice(stream, max(1, windows_at_once(classes, size) // 4))):
        images: list[Pixels] = [image for image, _ in batch]
        masks: list[Mask] = [mask for _, mask in batch]
        for mask, predicted in zip(masks, predict_classes(predict, images, size, classes, zoom), strict=True):
            counted = mask > 0
            cells = (mask[counted].astype(np.int64) - 1) * classes + predicted[counted]
            counts += np.bincount(cells, minlength=classes * classes)
    return counts.reshape(classes, classes)


def scores(counts: Counts) -> dict[str, float]:
    """`miou`: mean over the classes that occur of intersection over union; `pixel_accuracy`; both in percent."""
    right = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - right
    occurs = union > 0
    miou = float((right[occurs] / union[occurs]).mean()) if occurs.any() else 0.0
    return {"miou": 100 * miou, "pixel_accuracy": 100 * float(right.sum() / max(1, counts.sum()))}
