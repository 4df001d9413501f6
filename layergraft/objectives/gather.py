"""Gather the global batch from the processes, each of which has a contiguous part of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums every process's gradient of this process's part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        ctx.rows = slice(len(part) * dist.get_rank(), len(part) * (dist.get_rank() + 1))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.rows]


def gather(part: Tensor) -> tuple[Tensor, int]:
    """Gather a tensor that has a row per sample from all processes, with gradients.

    The gradient is that of the sum over processes of their losses. Data parallelism takes its mean, so a loss that each
    process computes from the whole batch, and one that is a mean over its own part, both come out as in one process.

    Args:
        part: this process's rows, of shape (N, ...); the shape is equal on all processes.

    Returns:
        (all parts in order of rank, of shape (N * processes, ...), where this process's part starts).
    """
    if not (dist.is_available() and dist.is_initialized()):
        return part, 0
    whole: Tensor = _Gather.apply(part)
    return whole, len(part) * dist.get_rank()
