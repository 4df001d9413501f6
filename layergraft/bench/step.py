"""Time one training step against the machine's matrix-multiplication peak."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console

from layergraft.config.encoder import EncoderConfig
from layergraft.config.objectives import MaeConfig, MocoConfig
from layergraft.data.batch import Batch
from layergraft.graft.apply import stage_rows
from layergraft.models.vit import create_encoder
from layergraft.objectives.base import Progress, create_objective
from layergraft.randomness import Randomness


def gemm_peak_gflops(size: int = 2048, repeats: int = 8) -> float:
    """The best rate of an fp32 matrix product, in GFLOP/s."""
    a, b, best = torch.randn(size, size), torch.randn(size, size), 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def block_gflop(tokens: int, width: int, depth: int, mlp_ratio: float = 4.0) -> float:
    """Forward GFLOP of one image through `depth` blocks: linears and the two attention products."""
    return depth * (2 * tokens * width**2 * (4 + 2 * mlp_ratio) + 4 * tokens**2 * width) / 1e9


def bench_step(
    objective: str, encoder_name: str, img_size: int, batch_size: int, seconds: float, quiet: bool
) -> dict[str, Any]:
    """Run steps on random images; see `layergraft.bench`."""
    encoder = create_encoder(EncoderConfig(name=encoder_name, img_size=img_size), 0).train()
    config = MaeConfig() if objective == "mae" else MocoConfig()
    target = create_objective(config, encoder)
    for parameter in encoder.layers()["positions"]:
        parameter.requires_grad_(False)
    if objective == "moco":
        for parameter in encoder.layers()["patch_embed"]:
            parameter.requires_grad_(False)
    target.start(encoder)
    parameters = [p for row in stage_rows(encoder, target).values() for p in row if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    images = torch.randn(batch_size, encoder.in_chans, img_size, img_size)
    views = dict.fromkeys(config.views, images)
    keys, random = np.arange(batch_size, dtype=np.int64), Randomness(seed=0, scope="bench")
    batch = Batch(keys=keys, epoch=0, views=views, labels=None, random=random)

    def step() -> None:
        progress = Progress(step=0, steps=100)
        target.before_step(encoder, progress)
        losses, pending = target.losses(target.encode(encoder, batch), progress)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        target.after_step(pending)
        optimizer.zero_grad()

    peak, rate = gemm_peak_gflops(), batch_size / median_seconds(step, seconds)
    tokens, width = encoder.num_patches + encoder.prefix_tokens, encoder.embed_dim
    patch = 2 * encoder.num_patches * encoder.patch_size**2 * encoder.in_chans * width / 1e9
    if isinstance(config, MaeConfig):
        visible = int(encoder.num_patches * (1 - config.mask_ratio)) + encoder.prefix_tokens
        decoder = block_gflop(tokens, config.decoder.embed_dim, config.decoder.depth)
        gflop = 3 * (block_gflop(visible, width, encoder.depth) + decoder) + 3 * patch
    else:
        gflop = 8 * block_gflop(tokens, width, encoder.depth) + 4 * patch
    found = {
        "images_per_second": rate,
        "gflop_per_image": gflop,
        "gemm_peak_gflops": peak,
        "gemm_fraction": rate * gflop / peak,
        "reference_images_per_second": None,
        "ratio": None,
    }
    if not quiet:
        Console(stderr=True).print(
            f"{objective} on {encoder_name}, {img_size} px, batch {batch_size}: {rate:.1f} images/s, "
            f"{gflop:.2f} GFLOP an image, {found['gemm_fraction']:.2f} of the machine's {peak:.0f} GFLOP/s"
        )
    print(json.dumps(found))
    return found


def median_seconds(function: Callable[[], None], seconds: float) -> float:
    """Median time of a call, measured for about `seconds` after two calls of warm-up."""
    function()
    function()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
