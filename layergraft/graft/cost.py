"""What a step costs, counted rather than run."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, attention and convolutions in a call, by their shapes."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())
