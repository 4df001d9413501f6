"""Colour, blur and solarisation of a whole batch at once, where the training step is, with each sample's parameters.

The loader draws the parameters and crops, as it does where it finishes the views itself; what it leaves is here. Values
are rounded where `fast` rounds, so that both ways to finish a view differ by the order of float operations alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from layergraft.config.data import ViewConfig
from layergraft.data.arrays import Pixels
from layergraft.data.fast_augment import blur_kernel, blur_radius, colour_matrix
from layergraft.data.view_parameters import ViewParameters


def blur(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image with a kernel of its own, down and across, mirrored at the border.

    Args:
        pixels: of shape (N, C, H, W).
        kernels: of shape (N, 2 R + 1).
    """
    count, channels, height, width = pixels.shape
    radius = kernels.shape[1] // 2
    planes = F.pad(pixels, (radius,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * radius, -1)
    weights = kernels.repeat_interleave(channels, dim=0)[:, None, :, None]
    for direction in (weights, weights.transpose(2, 3)):
        planes = F.conv2d(planes, direction, groups=count * channels)
    return planes.reshape(count, channels, height, width)


@dataclass(frozen=True, kw_only=True)
class DeferredAugment:
    """Colour, blur and solarisation that the loader left for the device: per-sample parameters, kept on the host.

    Args:
        matrices: affine map of each image's colour in grey levels, float32 of shape (N, C, C + 1).
        kernels: float32 of shape (N, 2 R + 1), of no use where an image is not blurred.
        blurred: which images are blurred, of shape (N,).
        solarized: whether values from 128 up are inverted, of shape (N,).
    """

    matrices: npt.NDArray[np.float32]
    kernels: npt.NDArray[np.float32]
    blurred: npt.NDArray[np.bool_]
    solarized: npt.NDArray[np.bool_]

    @classmethod
    def identity(cls, count: int, channels: int, config: ViewConfig) -> DeferredAugment:
        """Parameters that change nothing, for `count` views of a configuration; `set_row` fills them in."""
        radius = blur_radius(config.blur_sigma[1]) if config.blur else 0
        return cls(
            matrices=np.tile(np.eye(channels, channels + 1, dtype=np.float32), (count, 1, 1)),
            kernels=np.zeros((count, 2 * radius + 1), dtype=np.float32),
            blurred=np.zeros(count, dtype=np.bool_),
            solarized=np.zeros(count, dtype=np.bool_),
        )

    def set_row(self, row: int, view: Pixels, parameters: ViewParameters) -> None:
        """Set what a cropped view (H, W, C) still needs, by its position in the batch."""
        matrix = colour_matrix(parameters, view)
        if matrix is not None:
            self.matrices[row] = matrix
        if parameters.sigma is not None:
            kernel = blur_kernel(parameters.sigma)
            middle, radius = self.kernels.shape[1] // 2, len(kernel) // 2
            self.kernels[row, middle - radius : middle + radius + 1] = kernel
            self.blurred[row] = True
        self.solarized[row] = parameters.solarize

    def part(self, start: int, stop: int) -> DeferredAugment:
        """The parameters of the views `start` to `stop` - 1."""
        views = slice(start, stop)
        return DeferredAugment(
            matrices=self.matrices[views],
            kernels=self.kernels[views],
            blurred=self.blurred[views],
            solarized=self.solarized[views],
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Carry the operations out on cropped views.

        Args:
            pixels: uint8 of shape (N, C, H, W), on any device.

        Returns:
            float32 of the same shape: whole grey levels.
        """

        def to_device(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(pixels.device, non_blocking=True)

        matrices = to_device(self.matrices)
        values = torch.baddbmm(matrices[:, :, -1:], matrices[:, :, :-1], pixels.float().flatten(2)).view(pixels.shape)
        values.round_().clamp_(0, 255)
        if self.blurred.any():
            rows = to_device(np.flatnonzero(self.blurred))
            values[rows] = blur(values[rows], to_device(self.kernels[self.blurred])).round_()
        if self.solarized.any():
            rows = to_device(np.flatnonzero(self.solarized))
            values[rows] = torch.minimum(values[rows], 255 - values[rows])
        return values
