"""Mixup, cutmix and random erasing on a batch of normalised images, each random number the sample's own.

timm mixes a batch with itself reversed, by one number; here neighbours are mixed, each pair by its own number, so that
what a sample becomes does not depend on how many processes share the batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from layergraft.config.supervised import MixConfig


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """(N,) -> (N, classes): 1 - smoothing on the label, and `smoothing` spread over all classes."""
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_add_(1, labels[:, None], torch.full_like(targets[:, :1], 1 - smoothing))


def cut_box(height: int, width: int, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Cutmix's rectangle: `share` of the area around a uniform centre, clipped (Yun et al., section 3.2).

    Returns:
        (top, bottom, left, right) in pixels.
    """
    h, w = int(height * math.sqrt(share)), int(width * math.sqrt(share))
    y, x = int(random.integers(height)), int(random.integers(width))
    return max(0, y - h // 2), min(height, y + (h + 1) // 2), max(0, x - w // 2), min(width, x + (w + 1) // 2)


def keep_weights(config: MixConfig, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """How much of its own each pixel keeps, of shape (height, width); 1 - that comes from the neighbour."""
    weights = np.ones((height, width), dtype=np.float32)
    if random.random() >= config.probability:
        return weights
    cut = config.cutmix > 0 and (config.mixup <= 0 or random.random() < config.switch)
    if cut:
        share = 1 - float(random.beta(config.cutmix, config.cutmix))
        top, bottom, left, right = cut_box(height, width, share, random)
        weights[top:bottom, left:right] = 0
    elif config.mixup > 0:
        weights[:] = float(random.beta(config.mixup, config.mixup))
    return weights


def mix_pairs(
    images: Tensor, targets: Tensor, config: MixConfig, generators: list[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with its neighbour: 0 with 1, 2 with 3; an odd one out stays as it is.

    Args:
        images: of shape (N, C, H, W).
        targets: of shape (N, classes).
        config: by how much.
        generators: one for each sample; the first of a pair decides.
    """
    paired, (height, width) = len(images) // 2 * 2, images.shape[2:]
    kept = [keep_weights(config, height, width, generators[first]) for first in range(0, paired, 2)]
    if not kept:
        return images, targets
    keep = torch.from_numpy(np.stack(kept).repeat(2, axis=0)).to(images.device)[:, None]
    share = keep.mean(dim=(1, 2, 3))[:, None]

    def neighbours(x: Tensor) -> Tensor:
        return x[:paired].reshape(paired // 2, 2, *x.shape[1:]).flip(1).flatten(0, 1)

    mixed = keep * images[:paired] + (1 - keep) * neighbours(images)
    mixed_targets = share * targets[:paired] + (1 - share) * neighbours(targets)
    return torch.cat([mixed, images[paired:]]), torch.cat([mixed_targets, targets[paired:]])


def erase(images: Tensor, probability: float, generators: list[np.random.Generator]) -> Tensor:
    """Turn a rectangle of some images into Gaussian noise (Zhong et al. 2020; timm's `pixel` mode).

    Args:
        images: normalised, of shape (N, C, H, W).
        probability: that an image has one; 2 % to a third of the area, aspect 0.3 to 1 / 0.3, ten attempts.
        generators: one for each sample.
    """
    images = images.clone()
    channels, height, width = images.shape[1:]
    for image, random in zip(images, generators, strict=True):
        if random.random() >= probability:
            continue
        for _ in range(10):
            area = height * width * random.uniform(0.02, 1 / 3)
            aspect = math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
                noise = torch.from_numpy(random.standard_normal((channels, h, w), dtype=np.float32))
                image[:, top : top + h, left : left + w] = noise.to(images.device, images.dtype)
                break
    return images
