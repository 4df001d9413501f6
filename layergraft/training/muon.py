"""Muon: momentum whose matrix is made nearly orthogonal before it is taken as a step.

Not `torch.optim.Muon`, and not timm's, whose products are always in bfloat16: on a processor that does not multiply it
in hardware they take 20 times as long as in single precision, and in double precision they hide what rounding does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor

from layergraft.encoders.sharding import like, whole

_BATCH = 2**22  # elements of all matrices that are made orthogonal at once: larger ones gain nothing from company
_ITERATIONS = 5
_COEFFICIENTS = [(3.4445, -4.7750, 2.0315)]  # of the quintic polynomial: steepest at 0 (Jordan et al., 2024)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum (Jordan et al., 2024), its updates as large as AdamW's (Liu et al., 2025, 2.2).

    Args:
        groups: parameter groups of matrices, with `lr` and `weight_decay`. Matrices that are split over processes are
            put together for their step.
        momentum: of the gradients' running mean.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weights in _batches([weight for weight in group["params"] if weight.grad is not None]):
                gradients = torch.stack([whole(self._smoothed_gradient(weight, momentum)) for weight in weights])
                for weight, update in zip(weights, orthogonal(gradients), strict=True):
                    weight.mul_(1 - rate * group["weight_decay"])
                    weight.add_(like(update, weight), alpha=-rate * get_lr_scale(weight.shape))

    def _smoothed_gradient(self, weight: Tensor, momentum: float) -> Tensor:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(mean, momentum)


def _batches(weights: list[Tensor]) -> Iterator[list[Tensor]]:
    """Weights of one shape together: many small products take less time at once than one after the other."""
    alike: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        alike.setdefault(weight.shape, []).append(weight)
    for same in alike.values():
        size = max(1, _BATCH // same[0].numel())
        for start in range(0, len(same), size):
            yield same[start : start + size]


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (..., M, N) with the same singular vectors, and singular values near 1, by Newton-Schulz iterations."""
    near: Tensor = zeropower_via_newtonschulz(matrices, _ITERATIONS, _COEFFICIENTS, dtype=products_dtype(matrices))
    return near.to(matrices.dtype)


def products_dtype(matrix: Tensor) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware; else, and for double precision, what the matrix has."""
    if matrix.dtype == torch.float64:
        return torch.float64
    if matrix.device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Older versions of torch do not tell what a processor can do.
        abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        can = abilities.get("avx512_bf16") or abilities.get("amx_bf16")
        fast = matrix.device.type == "cpu" and bool(can)
    return torch.bfloat16 if fast else torch.float32
