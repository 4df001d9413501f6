"""How well pixels are classified: sliding windows over whole images, at the masks' own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from layergraft.data.fast import resize
from layergraft.data.masks import Mask, pairs
from layergraft.data.sources import Image, Source

Predict = Callable[[Tensor], Tensor]
Counts = npt.NDArray[np.int64]
IMAGES_AT_ONCE = 32
WINDOWS_AT_ONCE = 64


def window_starts(length: int, size: int) -> list[int]:
    """Where windows of `size` start along a side, two thirds of it apart, the last at the end."""
    return [*range(0, length - size, max(1, 2 * size // 3)), length - size]


def predict_classes(predict: Predict, images: list[Image], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """The class of every pixel of some images.

    Args:
        predict: uint8 windows (N, C, size, size) -> logits of shape (N, classes, size, size).
        images: uint8 of shape (H, W, C); the shorter side is brought to `size`.
        size: of the windows; where they overlap, logits are averaged.

    Yields:
        Classes of shape (H, W), one for each image.
    """
    places, windows = [], []
    for image in images:
        scale = size / min(image.shape[:2])
        height, width = (max(size, round(side * scale)) for side in image.shape[:2])
        scaled = resize(image, height, width, "bicubic")
        boxes = [(y, x) for y in window_starts(height, size) for x in window_starts(width, size)]
        places.append((height, width, boxes))
        windows += [np.ascontiguousarray(scaled[y : y + size, x : x + size].transpose(2, 0, 1)) for y, x in boxes]
    stacked = torch.from_numpy(np.stack(windows))
    logits = torch.cat([predict(part) for part in torch.split(stacked, WINDOWS_AT_ONCE)])
    done = 0
    for image, (height, width, boxes) in zip(images, places, strict=True):
        total, times = torch.zeros(logits.shape[1], height, width), torch.zeros(height, width)
        for (y, x), own in zip(boxes, logits[done : done + len(boxes)], strict=True):
            total[:, y : y + size, x : x + size] += own
            times[y : y + size, x : x + size] += 1
        done += len(boxes)
        full = F.interpolate((total / times)[None], image.shape[:2], mode="bilinear", align_corners=False)
        yield full[0].argmax(0).numpy()


def confusion(predict: Predict, source: Source, classes: int, size: int, channels: int) -> Counts:
    """Pixels by true and predicted class, of shape (classes, classes); ignored pixels are left out."""
    counts = np.zeros(classes * classes, dtype=np.int64)
    stream = pairs(source, channels)
    while batch := list(islice(stream, IMAGES_AT_ONCE)):
        images: list[Image] = [image for image, _ in batch]
        masks: list[Mask] = [mask for _, mask in batch]
        for mask, found in zip(masks, predict_classes(predict, images, size), strict=True):
            seen = mask > 0
            pairs_seen = (mask[seen].astype(np.int64) - 1) * classes + found[seen]
            counts += np.bincount(pairs_seen, minlength=classes * classes)
    return counts.reshape(classes, classes)


def scores(counts: Counts) -> dict[str, float]:
    """`miou`: mean over the classes that occur of intersection over union; `pixel_accuracy`; both in percent."""
    right = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - right
    occurs = union > 0
    miou = float((right[occurs] / union[occurs]).mean()) if occurs.any() else 0.0
    return {"miou": 100 * miou, "pixel_accuracy": 100 * float(right.sum() / max(1, counts.sum()))}
