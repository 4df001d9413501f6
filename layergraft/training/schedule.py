"""Learning-rate schedule: linear warm-up, then a cosine, per step."""

from __future__ import annotations

import math


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
