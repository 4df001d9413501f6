"""The momentum update: a slow copy of a network."""

from __future__ import annotations

import torch
from torch import nn

from layergraft.encoders.sharding import local


@torch.no_grad()
def momentum_update(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow = momentum * slow + (1 - momentum) * fast, parameters only, on local shards where they are split.

    Frozen rows are skipped: they are equal, and m * x + (1 - m) * x is not x in floating point.
    """
    pairs = zip(slow.parameters(), fast.parameters(), strict=True)
    trained = [(local(s), local(f)) for s, f in pairs if f.requires_grad]
    if trained:
        slows, fasts = zip(*trained, strict=True)
        torch._foreach_mul_(slows, momentum)
        torch._foreach_add_(slows, fasts, alpha=1 - momentum)
