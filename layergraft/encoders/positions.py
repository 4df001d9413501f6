"""The fixed 2-D sine-cosine position table (MAE, appendix A; Vaswani et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_positions(embed_dim: int, grid: tuple[int, int], prefix_tokens: int = 0) -> Tensor:
    """The table in MAE's layout: the column index in the first half of the channels, the row index in the second.

    Args:
        embed_dim: width of a token, a multiple of 4.
        grid: rows and columns of patches.
        prefix_tokens: rows of zeros for class token and registers.

    Returns:
        Tensor of shape (1, prefix_tokens + rows * columns, embed_dim).
    """
    quarter = embed_dim // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = [torch.outer(index.flatten(), frequency) for index in (columns, rows)]
    table = torch.cat([part for angle in halves for part in (angle.sin(), angle.cos())], dim=1).float()
    return torch.cat([torch.zeros(prefix_tokens, embed_dim), table])[None]
