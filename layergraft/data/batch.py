"""A batch: views of some samples, with what is needed to draw more random numbers for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layergraft.data.device_augment import DeferredAugment
from layergraft.data.randomness import Randomness


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Views of some samples, and what draws more random numbers for them.

    Args:
        keys: sample keys, of shape (N,).
        epoch: which pass over the data, from 0; the same for all samples.
        views: view name -> pixels of shape (N, C, H, W), uint8 from the loader, normalised floats in an objective.
        labels: class of each sample, of shape (N,), or None.
        masks: view name -> class of each pixel of that view, uint8 of shape (N, H, W); empty where nobody asked.
        random: where the batch's random numbers come from.
        unfinished: view name -> what the loader left to the device; empty where it finished the views itself.
        keep_ratio: share of a view's patches that is seen, in place of the objective's; None leaves that.
    """

    keys: npt.NDArray[np.int64]
    epoch: int
    views: dict[str, Tensor]
    labels: Tensor | None
    random: Randomness
    masks: dict[str, Tensor] = field(default_factory=dict)
    unfinished: dict[str, DeferredAugment] = field(default_factory=dict)
    keep_ratio: float | None = None

    def prepared(self, to_device: Callable[[Tensor], Tensor], normalize: Normalize) -> Batch:
        """What an objective takes: a batch of the loader, on the device, with finished and normalised views."""
        views = {name: to_device(pixels) for name, pixels in self.views.items()}
        for name, deferred in self.unfinished.items():
            views[name] = deferred(views[name])
        return replace(
            self,
            views={name: normalize(pixels) for name, pixels in views.items()},
            masks={name: to_device(mask) for name, mask in self.masks.items()},
            unfinished={},
        )

    def part(self, start: int, stop: int) -> Batch:
        """The samples `start` to `stop` - 1."""
        views = {name: view[start:stop] for name, view in self.views.items()}
        labels = None if self.labels is None else self.labels[start:stop]
        masks = {name: mask[start:stop] for name, mask in self.masks.items()}
        rest = {name: deferred.part(start, stop) for name, deferred in self.unfinished.items()}
        return replace(self, keys=self.keys[start:stop], views=views, labels=labels, masks=masks, unfinished=rest)

    def uniform(self, purpose: str, count: int, device: torch.device) -> Tensor:
        """`count` uniform numbers for each sample, float32 of shape (N, count)."""
        values = self.random.uniform(purpose, self.keys, self.epoch, count)
        return torch.from_numpy(values.astype(np.float32)).to(device)

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """A NumPy generator for each sample."""
        return self.random.generators(purpose, self.keys, self.epoch)


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Pixels to network input.

    Args:
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Grey levels (N, C, H, W) -> float32, normalised; one multiplication and one subtraction, in place."""
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        return pixels.float().mul_(1 / (255 * std)).sub_(mean / std)
