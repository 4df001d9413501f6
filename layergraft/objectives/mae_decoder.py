"""MAE's decoder: visible tokens and mask tokens in, pixels of every patch out (He et al., section 3)."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from layergraft.encoders.partial_block import block_of_projected, is_plain, partial_block, take
from layergraft.encoders.positions import sincos_positions


class MaeDecoder(nn.Module):
    """A small transformer that sees visible tokens and a mask token for every other patch.

    Shapes: N samples, L patches of which K are visible and M are predicted, D features.

    Args:
        encoder_dim: width of the encoder's tokens.
        grid: rows and columns of patches.
        pixels: numbers to predict per patch.
        embed_dim: width of the decoder's tokens.
        depth: number of blocks.
        num_heads: attention heads of a block.
        prefix_tokens: class token and registers of the encoder.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: tuple[int, int],
        pixels: int,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        prefix_tokens: int = 1,
    ) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.embed = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.register_buffer("positions", sincos_positions(embed_dim, grid, prefix_tokens))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, 4.0, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.pred = nn.Linear(embed_dim, pixels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    positions: Tensor

    def forward(self, latent: Tensor, keep: Tensor, patches: Tensor | None = None) -> Tensor:
        """Predict patches.

        Args:
            latent: encoder output for prefix and visible tokens, of shape (N, prefix + K, D).
            keep: which patches are visible, of shape (N, K).
            patches: which patches to predict, of shape (N, M); None predicts all.

        Returns:
            Predictions of shape (N, M, pixels).
        """
        n = len(latent)
        prefix = torch.arange(self.prefix_tokens, device=keep.device)
        visible_at = torch.cat([prefix.expand(n, -1), keep + self.prefix_tokens], dim=1)
        visible = self.embed(latent)
        positions = self.positions.to(visible.dtype)
        visible = visible + take(positions.expand(n, -1, -1), visible_at)
        x = self._first_block(visible, self.mask_token.to(visible.dtype) + positions, visible_at)
        for block in self.blocks[1:-1]:
            x = block(x)
        wanted = slice(self.prefix_tokens, None) if patches is None else patches + self.prefix_tokens
        x = partial_block(self.blocks[-1], x, wanted)
        prediction: Tensor = self.pred(self.norm(x))
        return prediction

    def _first_block(self, visible: Tensor, masks: Tensor, visible_at: Tensor) -> Tensor:
        """Put visible and mask tokens in order and run the first block, unless it is the last as well.

        Before this block a mask token depends on its position alone, so its query, key and value are computed once for
        the whole batch instead of once a sample.

        Args:
            visible: prefix and visible tokens, of shape (N, prefix + K, D).
            masks: a mask token for every position, of shape (1, prefix + L, D).
            visible_at: positions of the visible tokens, of shape (N, prefix + K).

        Returns:
            Tensor of shape (N, prefix + L, D).
        """
        tokens = _place(visible, masks, visible_at)
        first = self.blocks[0]
        if len(self.blocks) == 1:
            return tokens  # the caller runs it, for the predicted patches alone
        if not is_plain(first):
            return cast(Tensor, first(tokens))
        # Project N * (prefix + K) visible tokens and prefix + L mask tokens in one product: (rows, 3 * D).
        projected = first.attn.qkv(first.norm1(torch.cat([visible.flatten(0, 1), masks[0]])))
        of_visible, of_masks = projected.split([visible_at.numel(), masks.shape[1]])
        # Put the projections in the order of the tokens, (N, prefix + L, 3 * D), and run the rest of the block.
        queries_keys_values = _place(of_visible.view(*visible_at.shape, -1), of_masks[None], visible_at)
        return block_of_projected(first, tokens, queries_keys_values)


def _place(visible: Tensor, masks: Tensor, visible_at: Tensor) -> Tensor:
    """Put visible tokens (N, K, D) at their positions (N, K) among mask tokens (1, L, D): (N, L, D)."""
    index = visible_at[:, :, None].expand(-1, -1, visible.shape[2])
    return masks.expand(len(visible), -1, -1).scatter(1, index, visible)
