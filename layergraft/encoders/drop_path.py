"""Stochastic depth (Huang et al. 2016) whose random numbers are handed in.

timm's `DropPath` draws from the global generator, so a step could be repeated only by saving its state. Ours takes the
place of the module of the same name in a block; it has no parameters, so names of weights stay timm's.
"""

from __future__ import annotations

from torch import Tensor, nn

from layergraft.encoders.vit import Encoder


class DropPath(nn.Module):
    """Multiply each sample's branch by 0 or 1 / (1 - rate) while training.

    Args:
        rate: probability of 0.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.factor: Tensor | None = None

    def draw(self, uniform: Tensor) -> None:
        """Decide for the next batch, also for a second pass of activation checkpointing: numbers of shape (N,)."""
        self.factor = (uniform >= self.rate).float() / (1 - self.rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.factor is None:
            return x
        return x * self.factor.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def install_drop_path(encoder: Encoder, rate: float) -> list[DropPath]:
    """Give every block its drop path; the rate rises linearly from 0 at the first block.

    Returns:
        Two for each block, attention first; none at rate 0.
    """
    if not rate:
        return []
    paths = []
    for index, block in enumerate(encoder.vit.blocks):
        block_rate = rate * index / max(1, encoder.depth - 1)
        block.drop_path1, block.drop_path2 = DropPath(block_rate), DropPath(block_rate)
        paths += [block.drop_path1, block.drop_path2]
    return paths


def draw_paths(paths: list[DropPath], uniform: Tensor) -> None:
    """Decide which samples of a batch skip which branches.

    Args:
        paths: of `install_drop_path`.
        uniform: numbers in [0, 1), of shape (N, len(paths)).
    """
    for path, numbers in zip(paths, uniform.unbind(1), strict=True):
        path.draw(numbers)
