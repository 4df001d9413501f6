"""What a recipe is chosen for: cores, memory, a GPU, and how fast they multiply."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from layergraft.training.launch import available_cores
from layergraft.training.memory import free_memory

_TRIAL = 0.3  # seconds
_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is carried out on.

    Args:
        cores: that this process may use.
        gflops: products of matrices by a trial, 10^9 operations a second, in the precision that is used.
        memory: bytes that are free, on the GPU where there is one; None where that is not known.
        gpu: its name, or None.
    """

    cores: int
    gflops: float
    memory: int | None = None
    gpu: str | None = None


def look_at_machine() -> Machine:
    """Say what this machine is, by a trial of under a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Machine(
        cores=available_cores(),
        gflops=_product_speed(device),
        memory=free_memory(device),
        gpu=torch.cuda.get_device_name() if device.type == "cuda" else None,
    )


def _product_speed(device: torch.device) -> float:
    """10^9 operations a second of products of large square matrices."""
    side = _SIDE[device.type]
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    count, began = 0, 0.0
    while True:
        _ = matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if not count:  # the first one takes memory and chooses kernels
            began = now
        elif now - began > _TRIAL:
            return 2 * side**3 * count / (now - began) / 1e9
        count += 1
