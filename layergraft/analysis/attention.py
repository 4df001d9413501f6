"""The attention of each block, as the block itself computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layergraft.encoders.vit import Encoder


def attention_maps(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """Attention of every block: a list of (N, heads, T, T); row i says where token i looks.

    Fused attention never forms the matrix, so each block's own plain path is taken and read behind its softmax.
    """
    maps: list[Tensor] = []

    def read(module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        maps.append(arguments[0].detach())

    layers = [block.attn for block in encoder.vit.blocks]
    fused = [layer.fused_attn for layer in layers]
    hooks = [layer.attn_drop.register_forward_hook(read) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        encoder.run_blocks(encoder.tokens(images))
    finally:
        for layer, was_fused in zip(layers, fused, strict=True):
            layer.fused_attn = was_fused
        for hook in hooks:
            hook.remove()
    return maps


def patch_attention(encoder: Encoder, attention: Tensor) -> Tensor:
    """Attention between patches alone, each row summing to 1 again: (N, heads, patches, patches)."""
    among_patches = attention[:, :, encoder.prefix_tokens :, encoder.prefix_tokens :]
    return among_patches / among_patches.sum(-1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
