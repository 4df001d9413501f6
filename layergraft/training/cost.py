"""What a step costs, counted rather than run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layergraft.config.stage import StageConfig
from layergraft.encoders.network import build_vit
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Objective, Progress
from layergraft.training.memory import batch_of_shapes, without_content


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, attention and convolutions in a call, by their shapes."""
    # Attention as two products: the counter knows no formula for the fused kernel of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def forward_flops(encoder: Encoder) -> int:
    """Floating-point operations of one image's forward pass with all tokens, by shapes; a multiply-add is 2."""
    with torch.device("meta"), torch.no_grad():
        vit = build_vit(encoder.architecture, encoder.model_args)
        twin = Encoder(vit, encoder.architecture, encoder.model_args, encoder.mean, encoder.std).eval()
        image = torch.empty(1, encoder.in_chans, *encoder.input_size)
        return count_flops(lambda: twin.run_blocks(twin.tokens(image)))


def step_flops(encoder: Encoder, objective: Objective, config: StageConfig) -> int:
    """Floating-point operations of a step of the whole batch, forwards and backwards; nothing is computed.

    Args:
        encoder: the stage's encoder, frozen where the plan says so.
        objective: after `start`.
        config: the stage, with the batch size that is used.
    """
    mode, twin, target = without_content(encoder, objective)

    def step() -> None:
        features = target.encode(twin, batch_of_shapes(twin, config, config.batch_size))
        losses, _ = target.losses(features, Progress(step=0, steps=1))
        losses["loss"].backward()  # type: ignore[no-untyped-call]

    with mode:
        return count_flops(step)
