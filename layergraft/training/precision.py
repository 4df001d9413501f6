"""Whether products in 16 bits are worth it on this machine, and `engine.precision: auto`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import torch
from torch import nn

from layergraft.config.recipe import EngineConfig
from layergraft.encoders.attention import is_matrix_faster, matrix_attention
from layergraft.encoders.distributed import is_distributed
from layergraft.encoders.products import products
from layergraft.encoders.vit import Encoder
from layergraft.training.rendezvous import tell_all

_TRIAL = 0.3  # seconds
_SIDE = {"cpu": 512, "cuda": 8192, "mps": 2048}
_WORTH = 1.5  # times as many products a second: what is between the products gains nothing from 16 bits

SETTLED = {
    "bf16-mixed": "bf16-mixed, since this machine multiplies in 16 bits several times as fast.",
    "32-true": "32-true, since this machine does not multiply in 16 bits much faster.",
}


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


def products_of(engine: EngineConfig) -> torch.dtype | None:
    """What autocast computes products in; None without it."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(engine.precision)


def linear_products_of(engine: EngineConfig, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context in which a step multiplies the matrices of linear layers as `engine.products` says.

    Compiled blocks choose their products themselves; beside products in 16 bits the others are few.

    Args:
        engine: with a settled precision.
        device: that trains.

    Raises:
        UserError: oneDNN is asked for where there is none.
    """
    return products("torch" if engine.compile or products_of(engine) else engine.products, device)


def attention_of(
    engine: EngineConfig, encoder: Encoder, device: torch.device
) -> Callable[[nn.Module], AbstractContextManager[None]]:
    """The context in which a step of a module is computed, so that its attention layers go the faster way.

    Args:
        engine: with a settled precision.
        encoder: that is trained.
        device: that trains.
    """
    tokens = encoder.prefix_tokens + encoder.num_patches
    return matrix_attention if is_matrix_faster(device, products_of(engine), tokens) else _as_it_is


def _as_it_is(module: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()
