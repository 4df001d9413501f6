"""Tensors across the processes of a run; where there is one process, each function gives back what it got."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Return whether this process belongs to a group that can exchange tensors."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


class _Sum(torch.autograd.Function):
    """Sum over processes; backwards every process gets the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class _Gather(torch.autograd.Function):
    """Concatenation over processes; backwards each part takes its share of every process's gradient."""

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


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum a tensor of any shape, the same on all processes; differentiable."""
    if not is_distributed():
        return value
    total: Tensor = _Sum.apply(value)
    return total


def gather(part: Tensor) -> tuple[Tensor, int]:
    """Put the global batch together from its contiguous parts, one on each process.

    The gradient is that of the sum over processes of their losses. Data parallelism takes its mean, so a loss that each
    process computes from the whole batch, and one that is a mean over its own part, both come out as in one process.

    Args:
        part: of shape (N, ...), equal on all processes.

    Returns:
        (all parts in order of rank, of shape (N * processes, ...), where this process's part starts).
    """
    if not is_distributed():
        return part, 0
    whole: Tensor = _Gather.apply(part)
    return whole, len(part) * dist.get_rank()
