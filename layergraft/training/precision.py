"""Whether products in 16 bits are worth it on this machine, and `engine.precision: auto`."""

from __future__ import annotations

import time

import msgspec
import torch

from layergraft.config.recipe import EngineConfig
from layergraft.encoders.distributed import is_distributed
from layergraft.training.rendezvous import tell_all

_TRIAL = 0.3  # seconds
_SIDE = {"cpu": 512, "cuda": 8192, "mps": 2048}
_WORTH = 1.5  # times as many products a second: what is between the products gains nothing from 16 bits


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """10^9 operations a second of products of large square matrices, by a trial of a third of a second.

    Args:
        device: that multiplies.
        dtype: of the matrices.
    """
    side = _SIDE[device.type]
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    count, began = 0, 0.0
    while True:
        _ = matrix @ matrix
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        now = time.perf_counter()
        if not count:  # the first one takes memory and chooses kernels
            began = now
        elif now - began > _TRIAL:
            return 2 * side**3 * count / (now - began) / 1e9
        count += 1


def fastest_precision(device: torch.device) -> tuple[str, float]:
    """The precision to train in, and 10^9 operations a second of products in it.

    Args:
        device: that trains.

    Returns:
        (`bf16-mixed` on a GPU and on a CPU that multiplies bfloat16 in hardware (AVX512-BF16, AMX), else `32-true`;
        speed).
    """
    if device.type == "mps":  # not every Mac has bfloat16
        return "32-true", product_speed(device, torch.float32)
    low = product_speed(device, torch.bfloat16)
    full = 0.0 if device.type == "cuda" else product_speed(device, torch.float32)
    return ("bf16-mixed", low) if low > _WORTH * full else ("32-true", full)


def settle_precision(engine: EngineConfig, device: torch.device) -> EngineConfig:
    """An engine whose precision `auto` is settled by a trial, the same in every process; all processes call.

    Args:
        engine: any; one that names a precision is returned as it is.
        device: that trains.
    """
    if engine.precision != "auto":
        return engine
    precision = fastest_precision(device)[0]
    if is_distributed():
        precision = tell_all(precision)[0]
    return msgspec.structs.replace(engine, precision=precision)
