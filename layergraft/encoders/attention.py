"""Which way attention layers compute: fused, or with the matrix of scores formed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

LARGEST = 600  # tokens: the matrix of scores takes memory by their square


@contextmanager
def matrix_attention(module: nn.Module) -> Iterator[None]:
    """Within it, attention layers form the matrix of scores, as their own unfused path does.

    Args:
        module: any; its layers with timm's `fused_attn` are meant.
    """
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    try:
        for part in fused:
            setattr(part, "fused_attn", False)  # noqa: B010 - of timm's attention
        yield
    finally:
        for part in fused:
            setattr(part, "fused_attn", True)  # noqa: B010 - of timm's attention


def is_matrix_faster(device: torch.device, products: torch.dtype | None, tokens: int) -> bool:
    """Whether forming the matrix of scores is quicker than torch's fused attention.

    In bfloat16 on a CPU it is: 2 times forward, 3 to 15 times backward (findings/fused_attention_bfloat16_cpu.sh).

    Args:
        device: that computes.
        products: what autocast computes products in; None without.
        tokens: of an image, at most.
    """
    return device.type == "cpu" and products == torch.bfloat16 and tokens <= LARGEST
