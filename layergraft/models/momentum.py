"""The momentum update: a slow copy of a network."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def momentum_update(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow = momentum * slow + (1 - momentum) * fast, parameters only.

    Frozen rows are skipped: they are equal, and m * x + (1 - m) * x is not x in floating point.
    """
    pairs = [(s, f) for s, f in zip(slow.parameters(), fast.parameters(), strict=True) if f.requires_grad]
    if pairs:
        slows, fasts = zip(*pairs, strict=True)
        torch._foreach_mul_(slows, momentum)
        torch._foreach_add_(slows, fasts, alpha=1 - momentum)
