"""A transformer block for some of its tokens.

Where only a few outputs of the last block are used (the class token, the masked patches), the others need not exist:
keys and values come from every token, all the rest is computed for the wanted ones alone. The numbers are the block's.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F  # noqa: N812 - its usual name
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor


def take(tokens: Tensor, wanted: Tensor | slice) -> Tensor:
    """Tokens (N, T, D) -> the wanted ones, of shape (N, M, D).

    Args:
        tokens: of shape (N, T, D).
        wanted: the same of every sample, or indices of shape (N, M).
    """
    if isinstance(wanted, slice):
        return tokens[:, wanted]
    return tokens.gather(1, wanted[:, :, None].expand(-1, -1, tokens.shape[2]))


def partial_block(block: Block, tokens: Tensor, wanted: Tensor | slice) -> Tensor:
    """`take(block(tokens), wanted)` without what is not wanted.

    Args:
        block: of timm; a kind other than the plain one, and attention with a gate, is computed whole.
        tokens: of shape (N, T, D).
        wanted: the same tokens of every sample, or indices of shape (N, M).

    Returns:
        Tensor of shape (N, M, D).
    """
    if type(block) is not Block or type(block.attn) is not Attention or block.attn.gate is not None:
        return take(block(tokens), wanted)
    x = take(tokens, wanted)
    x = x + block.drop_path1(block.ls1(_attention(block.attn, block.norm1(tokens), wanted)))
    return cast(Tensor, x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def _attention(attn: Attention, tokens: Tensor, wanted: Tensor | slice) -> Tensor:
    """Self-attention with the wanted tokens as queries, of shape (N, M, D)."""
    n, count, _ = tokens.shape
    sizes = [attn.attn_dim, 2 * attn.attn_dim]
    own, other = attn.qkv.weight.split(sizes)
    own_bias, other_bias = (None, None) if attn.qkv.bias is None else attn.qkv.bias.split(sizes)
    q = F.linear(take(tokens, wanted), own, own_bias).view(n, -1, attn.num_heads, attn.head_dim).transpose(1, 2)
    kv = F.linear(tokens, other, other_bias).view(n, count, 2, attn.num_heads, attn.head_dim)
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if attn.fused_attn:
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0)
    else:
        x = attn.attn_drop((q * attn.scale @ k.transpose(-2, -1)).softmax(-1)) @ v
    x = attn.norm(x.transpose(1, 2).reshape(n, -1, attn.attn_dim))
    return cast(Tensor, attn.proj_drop(attn.proj(x)))
