"""The optimizer, its learning-rate schedule, and the scale of fp16 gradients."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraft.config.stage import OptimizerConfig


def build_optimizer(settings: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The configured optimizer; the groups, each with its `lr`, are those of `graft.optimizer_groups`."""
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True)


def lr_factor(step: int, steps: int, warmup_steps: int, final: float = 0.0) -> float:
    """The factor of the peak learning rate at a step.

    Args:
        step: steps done.
        steps: steps of the stage.
        warmup_steps: steps of linear warm-up from 0.
        final: where the cosine ends.
    """
    if step < warmup_steps:
        return step / warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
    return final + (1 - final) * cosine


class LossScaler:
    """Keeps fp16 gradients above underflow: the loss is multiplied by a scale that halves when a gradient overflows.

    Not torch's GradScaler, whose decision belongs to one process and one optimizer: here the loop has already found
    out, for all processes and shards together, whether the step is finite.

    Args:
        enabled: off, the scale is 1 and stays there.
    """

    START, GROW_AFTER = 2.0**16, 2000

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.scale, self.good = enabled, self.START if enabled else 1.0, 0

    def update(self, finite: bool) -> None:
        """After each step: halve on an overflow, double after many steps without one."""
        if not self.enabled:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale = max(1.0, self.scale / 2)
        elif self.good == self.GROW_AFTER:
            self.scale, self.good = self.scale * 2, 0

    @property
    def searching(self) -> bool:
        """Whether a gradient that is not finite may come from the scale, and is no bad step yet."""
        return self.scale > 1.0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good": float(self.good)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self.good = state["scale"], int(state["good"])
