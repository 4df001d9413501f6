"""Run a transformer block for a subset of its output tokens, or from precomputed queries, keys and values.

Where only a few outputs of the last block are used (the class token, the masked patches), the others need not exist:
keys and values come from every token, all the rest is computed for the wanted ones alone. Where many inputs of the
first block are equal (the mask tokens of a position), queries, keys and values are made once for them all. The numbers
are the block's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

BLOCKS = (Block, EvaBlock, EvaBlockPostNorm)
"""Classes of the blocks that are compiled and split over processes one by one."""


def take(tokens: Tensor, wanted: Tensor | slice) -> Tensor:
    """Tokens (N, T, D) -> the wanted ones, of shape (N, M, D).

    Args:
        tokens: of shape (N, T, D).
        wanted: the same of every sample, or indices of shape (N, M).
    """
    if isinstance(wanted, slice):
        return tokens[:, wanted]
    return tokens.gather(1, wanted[:, :, None].expand(-1, -1, tokens.shape[2]))


def is_plain(block: nn.Module) -> TypeGuard[Block]:
    """Return whether a block computes what this file does: timm's plain one, neither gated nor wrapped."""
    if not isinstance(block, Block) or type(block) is not Block:  # such as the subclass that FSDP makes
        return False
    return type(block.attn) is Attention and block.attn.gate is None


def partial_block(block: nn.Module, tokens: Tensor, wanted: Tensor | slice, *rotation: Tensor) -> Tensor:
    """Run a block for some of its output tokens: `take(block(tokens, *rotation), wanted)`.

    Keys and values come from every token, queries and all behind them from the wanted ones alone.

    Args:
        block: of timm; one that is not plain is computed whole.
        tokens: of shape (N, T, D).
        wanted: the same tokens of every sample, or indices of shape (N, M).
        rotation: what a block with rotary positions is called with besides the tokens (`rotary.of_block`).

    Returns:
        Tensor of shape (N, M, D).
    """
    if _turns_keys_alone(block, wanted):
        return _first_tokens(block, tokens, wanted, *rotation)
    if not is_plain(block):
        return take(block(tokens, *rotation), wanted)
    attn = block.attn
    normed = block.norm1(tokens)
    sizes = [attn.attn_dim, 2 * attn.attn_dim]
    q_weight, kv_weight = attn.qkv.weight.split(sizes)
    q_bias, kv_bias = (None, None) if attn.qkv.bias is None else attn.qkv.bias.split(sizes)
    n, count, _ = tokens.shape
    q = F.linear(take(normed, wanted), q_weight, q_bias).view(n, -1, attn.num_heads, attn.head_dim)
    k, v = F.linear(normed, kv_weight, kv_bias).view(n, count, 2, attn.num_heads, attn.head_dim).unbind(2)
    return _attend_and_transform(block, take(tokens, wanted), q, k, v)


def _turns_keys_alone(block: nn.Module, wanted: Tensor | slice) -> TypeGuard[EvaBlock]:
    """Whether a block is timm's plain one with rotary positions, and the wanted tokens stand before all patches."""
    attn: Any = getattr(block, "attn", None)
    if type(block) is not EvaBlock or type(attn) not in (EvaAttention, AttentionRope):
        return False
    several_queries_a_key = getattr(attn, "num_kv_groups", 1) > 1
    first = isinstance(wanted, slice) and wanted.stop is not None and 0 <= wanted.stop <= attn.num_prefix_tokens
    return first and attn.gate is None and not several_queries_a_key


def _first_tokens(block: EvaBlock, tokens: Tensor, wanted: Tensor | slice, rotation: Tensor | None = None) -> Tensor:
    """`partial_block` for tokens before the patches, whose queries are not turned."""
    attn, normed = block.attn, block.norm1(tokens)
    if attn.qkv is None:
        queries, keys, values = attn.q_proj(take(normed, wanted)), attn.k_proj(normed), attn.v_proj(normed)
    else:
        weights = attn.qkv.weight.chunk(3)
        biases: Sequence[Tensor | None] = (None, None, None)
        if attn.qkv.bias is not None:
            biases = attn.qkv.bias.chunk(3)
        elif getattr(attn, "q_bias", None) is not None:
            biases = (attn.q_bias, attn.k_bias, attn.v_bias)
        inputs = (take(normed, wanted), normed, normed)
        queries, keys, values = map(F.linear, inputs, weights, biases)
    q, k, v = (x.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    q, k = attn.q_norm(q), attn.k_norm(k)
    if rotation is not None:
        front = attn.num_prefix_tokens
        turned = apply_rot_embed_cat(k[:, :, front:], rotation, half=attn.rotate_half)
        q, k = q.type_as(v), torch.cat([k[:, :, :front], turned], dim=2).type_as(v)
    x = _weigh(attn, q, k, v)
    x = x if block.gamma_1 is None else block.gamma_1 * x
    x = take(tokens, wanted) + block.drop_path1(x)
    transformed = block.mlp(block.norm2(x))
    transformed = transformed if block.gamma_2 is None else block.gamma_2 * transformed
    return cast(Tensor, x + block.drop_path2(transformed))


def block_of_projected(block: Block, tokens: Tensor, qkv: Tensor) -> Tensor:
    """Run a block whose queries, keys and values are there already: `block(tokens)`.

    Args:
        block: a plain one.
        tokens: of shape (N, T, D).
        qkv: `block.attn.qkv(block.norm1(tokens))`, of shape (N, T, 3 D).
    """
    split = qkv.view(*tokens.shape[:2], 3, block.attn.num_heads, block.attn.head_dim)
    return _attend_and_transform(block, tokens, *split.unbind(2))


def _attend_and_transform(block: Block, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention and MLP, added to the block's input x of shape (N, M, D); q, k, v have the shape (N, T, heads, d)."""
    x = x + block.drop_path1(block.ls1(_attend(block.attn, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))))
    return cast(Tensor, x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (N, heads, M, d) to (N, heads, T, d), of shape (N, M, D)."""
    return _weigh(attn, attn.q_norm(q), attn.k_norm(k), v)


def _weigh(attn: Attention | EvaAttention | AttentionRope, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Values by the scores of normed queries and keys, projected: (N, M, D)."""
    if attn.fused_attn:
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0)
    else:
        x = attn.attn_drop((q * attn.scale @ k.transpose(-2, -1)).softmax(-1)) @ v
    x = attn.norm(x.transpose(1, 2).flatten(2))
    return cast(Tensor, attn.proj_drop(attn.proj(x)))
