"""MAE's decoder: visible tokens and mask tokens in, pixels of every patch out (He et al., section 3)."""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from layergraft.models.partial_block import partial_block
from layergraft.models.positions import sincos_positions


class MaeDecoder(nn.Module):
    """Args:
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
        x = self.embed(latent)
        n, width, count = len(x), x.shape[2], self.positions.shape[1] - self.prefix_tokens
        index = keep[:, :, None].expand(-1, -1, width)
        tokens = self.mask_token.to(x.dtype).expand(n, count, width).scatter(1, index, x[:, self.prefix_tokens :])
        x = torch.cat([x[:, : self.prefix_tokens], tokens], dim=1) + self.positions.to(x.dtype)
        for block in self.blocks[:-1]:
            x = block(x)
        wanted = slice(self.prefix_tokens, None) if patches is None else patches + self.prefix_tokens
        x = partial_block(self.blocks[-1], x, wanted)
        prediction: Tensor = self.pred(self.norm(x))
        return prediction
