"""Rotary positions: each block turns queries and keys of the patches by angles of their row and column.

timm's `Eva` family has them: EVA-02, DINOv3, Perception Encoder, RoPE-ViT (Su et al., 2021; Heo et al., ECCV 2024). A
block needs a table of sines and cosines of the patches that it sees: `rotation` makes it once for an image's grid,
`of_block` picks a block's part. Class token and registers are not turned.
"""

from __future__ import annotations

from typing import cast

from timm.layers import apply_keep_indices_nlc
from torch import Tensor, nn

from layergraft.encoders.network import Network


def rotary_positions(vit: Network) -> nn.Module | None:
    """The module that makes the angles, with their frequencies where these are learned; None without rotary ones."""
    return cast("nn.Module | None", getattr(vit, "rope", None))


def rotation(vit: Network, grid: tuple[int, int], keep: Tensor | None) -> Tensor | None:
    """Sines and cosines of the patches that the blocks see; d is twice the width of an attention head.

    Args:
        vit: the network.
        grid: rows and columns of patches of the images.
        keep: indices of the patches that are kept, of shape (N, K); None for all.

    Returns:
        (patches, d), or (N, 1, K, d) of kept patches; where each block and head has learned frequencies of its own
        (depth, heads, patches, d) or (depth, N, heads, K, d). None where positions are added to the tokens alone.
    """
    rope = rotary_positions(vit)
    if rope is None:
        return None
    table: Tensor = rope.get_embed(list(grid))  # type: ignore[operator]
    if keep is None:
        return table
    kept: Tensor = apply_keep_indices_nlc(keep, table, keep)
    return kept.transpose(0, 1) if table.ndim == 4 else kept[:, None]


def of_block(vit: Network, turns: Tensor | None, index: int) -> tuple[Tensor, ...]:
    """What a block is called with besides the tokens: its part of what `rotation` gave, or nothing."""
    if turns is None:
        return ()
    return (turns[index] if getattr(vit, "rope_mixed", False) else turns,)
