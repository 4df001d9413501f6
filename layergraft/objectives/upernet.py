"""UperNet (Xiao et al., ECCV 2018) on four blocks of a Vision Transformer.

Our own, because the maintained one that fits (segmentation-models-pytorch) always has a BatchNorm2d in its pyramid
pooling: its buffers would change in steps that are thrown away, and its statistics with the number of processes.
Here GroupNorm takes its place, which has neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

POOLS = (1, 2, 3, 6)


def _norm(channels: int) -> nn.GroupNorm:
    """At least 16 channels a group: one channel of the 1×1 pool alone would always be 0."""
    return nn.GroupNorm(max(1, math.gcd(32, channels // 16)), channels)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, _norm(outputs), nn.ReLU(inplace=True))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    """Rescale four maps of one size by 4, 2, 1 and 1/2 (BEiT: Bao et al., ICLR 2022, appendix).

    Args:
        width: channels of the maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        up = [nn.ConvTranspose2d(width, width, 2, 2) for _ in range(3)]
        self.scales = nn.ModuleList(
            [
                nn.Sequential(up[0], _norm(width), nn.GELU(), up[1]),
                up[2],
                nn.Identity(),
                nn.MaxPool2d(2, 2, ceil_mode=True),
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Rescale four maps (N, D, h, w): (N, D, 4h, 4w) to (N, D, h/2, w/2)."""
        return [scale(x) for scale, x in zip(self.scales, maps, strict=True)]


class UperNet(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid up from it, and a classifier on all of them.

    Args:
        inputs: channels of the four maps.
        width: channels inside.
        classes: of a pixel.
    """

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(inputs)
        self.pools = nn.ModuleList(_convolution(inputs, width, 1) for _ in POOLS)
        self.top = _convolution(inputs + len(POOLS) * width, width, 3)
        self.lateral = nn.ModuleList(_convolution(inputs, width, 1) for _ in range(3))
        self.smooth = nn.ModuleList(_convolution(width, width, 3) for _ in range(3))
        self.fuse = _convolution(4 * width, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute logits (N, classes, 4h, 4w) from four maps (N, D, h, w), lowest block first."""
        *fine, coarse = self.pyramid(maps)
        pooled = [
            _resize(convolution(F.adaptive_avg_pool2d(coarse, size)), coarse)
            for size, convolution in zip(POOLS, self.pools, strict=True)
        ]
        levels = [self.top(torch.cat([coarse, *pooled], dim=1))]
        for x, lateral in zip(reversed(fine), self.lateral, strict=True):
            x = lateral(x)
            levels.append(x + _resize(levels[-1], x))
        levels = [levels[0], *(smooth(x) for smooth, x in zip(self.smooth, levels[1:], strict=True))]
        fused = torch.cat([_resize(x, levels[-1]) for x in reversed(levels)], dim=1)
        logits: Tensor = self.classify(self.fuse(fused))
        return logits
