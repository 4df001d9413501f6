"""A graft plan in a few words."""

from __future__ import annotations

from collections.abc import Sequence

from layergraft.config import LrScaleConfig, PlanConfig
from layergraft.config.plan import FreezeBlocks


def plan_text(plan: PlanConfig) -> str:
    """A plan in a few words: `lr scale 0.3, 0.3, 1; frozen: patch_embed, positions`."""
    scale = plan.lr_scale
    if isinstance(scale, LrScaleConfig):
        moves = f"{scale.decay:g} a block" if scale.decay else "of the blocks " + _numbers(scale.blocks or ())
    else:
        moves = _numbers(scale) if isinstance(scale, tuple) else f"{scale:g}"
    still = f"lowest {plan.freeze.blocks} blocks and below" if isinstance(plan.freeze, FreezeBlocks) else ""
    if isinstance(plan.freeze, tuple):
        still = ", ".join(plan.freeze)
    return f"lr scale {moves}" + (f"; frozen: {still}" if still else "")


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
