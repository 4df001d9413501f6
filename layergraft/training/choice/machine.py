"""What a recipe is chosen for: cores, memory, a GPU, and how fast they multiply."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from layergraft.training.launch import available_cores
from layergraft.training.memory import free_memory
from layergraft.training.precision import fastest_precision


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is carried out on.

    Args:
        cores: that this process may use.
        gflops: products of matrices by a trial, 10^9 operations a second, in the precision that is used.
        precision: `bf16-mixed` where products in 16 bits are worth it, `32-true` elsewhere.
        memory: bytes that are free, on the GPU where there is one; None where that is not known.
        gpu: its name, or None.
    """

    cores: int
    gflops: float
    precision: str
    memory: int | None = None
    gpu: str | None = None


def look_at_machine() -> Machine:
    """Say what this machine is, by a trial of a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, gflops = fastest_precision(device)
    return Machine(
        cores=available_cores(),
        gflops=gflops,
        precision=precision,
        memory=free_memory(device),
        gpu=torch.cuda.get_device_name() if device.type == "cuda" else None,
    )
