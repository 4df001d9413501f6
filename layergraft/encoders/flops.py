"""How much arithmetic an encoder takes."""

from __future__ import annotations

from torch import nn

from layergraft.encoders.vit import Encoder


def forward_gflop(encoder: Encoder) -> float:
    """GFLOP of one image's forward pass with all tokens: convolutions, linears, attention; 2 a multiply-add."""
    tokens = encoder.num_patches + encoder.prefix_tokens
    side, total = encoder.img_size, 0
    for module in encoder.vit.patch_embed.modules():
        if isinstance(module, nn.Conv2d):
            side //= int(module.stride[0])
            total += 2 * module.weight.numel() * side**2
    for block in encoder.vit.blocks:
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
        total += sum(2 * linear.weight.numel() * tokens for linear in linears) + 4 * tokens**2 * encoder.embed_dim
    return total / 1e9
