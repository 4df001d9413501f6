"""The optimizer, its learning-rate schedule, and the scale and clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from layergraft.config.stage import OptimizerConfig
from layergraft.training.muon import Muon


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for matrices and AdamW for all other parameters, as one optimizer with one state.

    Muon's updates are scaled to the size of AdamW's (Liu et al., Muon is Scalable for LLM Training, 2025), so one
    table of learning rates and weight decays serves both.

    Args:
        groups: parameter groups with `lr` and `weight_decay`.
        momentum: Muon's.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, betas: tuple[float, float], eps: float) -> None:
        matrices, others = _parted(groups, matrices=True), _parted(groups, matrices=False)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, momentum))
        if others:
            self.parts.append(torch.optim.AdamW(others, betas=betas, eps=eps, fused=True))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimizer's groups and state, so that whatever changes these changes theirs."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss


def _parted(groups: list[dict[str, Any]], matrices: bool) -> list[dict[str, Any]]:
    """The groups with their matrices alone, or without them; a group that has none of these is left out."""
    parts = [{**group, "params": [p for p in group["params"] if (p.ndim == 2) == matrices]} for group in groups]
    return [group for group in parts if group["params"]]


def build_optimizer(settings: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The configured optimizer; the groups, each with its `lr`, are those of `graft.optimizer_groups`."""
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, fused=True)
    if settings.name == "muon":
        return MuonAndAdamW(groups, settings.muon_momentum, settings.betas, settings.eps)
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True)


def moments_of(settings: OptimizerConfig, parameter: torch.Tensor) -> int:
    """How many numbers the optimizer keeps for each number of a parameter."""
    if settings.name == "sgd":
        return int(settings.momentum > 0)
    return 1 if settings.name == "muon" and parameter.ndim == 2 else 2


def cooldown_steps(steps: int, warmup_steps: int, cooldown: float) -> int:
    """How many steps of `wsd` the decay takes, a part `cooldown` of all but never of the warm-up."""
    return max(1, min(round(cooldown * steps), steps - warmup_steps))


def lr_factor(step: int, steps: int, warmup_steps: int, final: float = 0.0, cooldown: float | None = None) -> float:
    """The factor of the peak learning rate at a step.

    Args:
        step: steps done.
        steps: steps of the stage.
        warmup_steps: steps of linear warm-up from 0.
        final: where the schedule ends.
        cooldown: the part of the steps in which it falls from 1, by one minus a square root; None falls by a cosine
            from the end of the warm-up on.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if cooldown is None:
        height = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
    else:
        length = cooldown_steps(steps, warmup_steps, cooldown)
        height = 1 - math.sqrt(max(0, step - (steps - length)) / length)
    return final + (1 - final) * height


@torch.no_grad()
def clip_gradients(gradients: list[torch.Tensor], largest: float | None, split: bool) -> torch.Tensor | None:
    """Scale gradients down to a norm, in place; returns the norm that they had, None where nothing is clipped.

    Args:
        gradients: of all trained parameters; those that are split over processes as their shards.
        largest: norm of all of them together; None clips nothing.
        split: whether they are shards, so that the norm is over all processes.
    """
    if largest is None or not gradients:
        return None
    square = torch.stack(torch._foreach_norm(gradients)).square().sum()
    if split:
        dist.all_reduce(square)
    norm = square.sqrt()
    # Not torch's clip_grad_norm_, which adds 1e-6 to the norm and does not know shards that were taken out of theirs.
    torch._foreach_mul_(gradients, (largest / norm).clamp(max=1.0))
    return norm


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
