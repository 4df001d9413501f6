"""What a step costs, counted rather than run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layergraft.config.encoder import height_and_width
from layergraft.config.objectives import JointConfig
from layergraft.config.stage import PhaseConfig, StageConfig
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

    Of a stage whose first parts see less, it is the mean over its steps.

    Args:
        encoder: the stage's encoder, frozen where the plan says so.
        objective: after `start`.
        config: the stage, with the batch size that is used.
    """
    mode, twin, target = without_content(encoder, objective)

    def step(phase: PhaseConfig | None) -> None:
        features = target.encode(twin, batch_of_shapes(twin, config, config.batch_size, phase))
        losses, _ = target.losses(features, Progress(step=0, steps=1))
        losses["loss"].backward()  # type: ignore[no-untyped-call]

    with mode:
        return round(sum(share * count_flops(partial(step, phase)) for share, phase in shares(config)))


def shares(config: StageConfig) -> list[tuple[float, PhaseConfig | None]]:
    """(part of the steps, the first part of the stage that they belong to; None for the rest)."""
    starts = [0.0, *(phase.until for phase in config.progressive)]
    parts: list[tuple[float, PhaseConfig | None]] = []
    for start, phase in zip(starts[:-1], config.progressive, strict=True):
        parts.append((phase.until - start, phase))
    return [*parts, (1.0 - starts[-1], None)]


def seen_patches(config: StageConfig, encoder: Encoder, phase: PhaseConfig | None = None) -> float:
    """How many patches of an image's views the encoder sees in a step, on average where a part is drawn.

    Args:
        config: the stage.
        encoder: tells the sizes of images and patches.
        phase: the first part of the stage that the step belongs to; None for the rest.
    """
    objective = config.objective
    parts = objective.parts.values() if isinstance(objective, JointConfig) else [objective]
    usual = encoder.img_size if phase is None or phase.size is None else phase.size
    patches = 0.0
    for part in parts:
        ratio = getattr(part, "keep_ratio", None)
        if ratio is not None and phase is not None and phase.keep_ratio is not None:
            ratio = phase.keep_ratio
        for name in part.views:
            height, width = height_and_width(config.views[name].size or usual)
            kept = 1.0 if ratio is None or name.startswith("local") else ratio
            patches += kept * height * width / encoder.patch_size**2
    return patches


def relative_cost(config: StageConfig, encoder: Encoder) -> float:
    """What a step costs on average over the stage, as a part of a step behind its first parts, by patches seen."""
    whole = seen_patches(config, encoder)
    return sum(share * seen_patches(config, encoder, phase) for share, phase in shares(config)) / whole
