"""Time one training step against a straightforward one and against the machine's matrix-multiplication peak."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from layergraft.commands.bench import reference
from layergraft.config.encoder import EncoderConfig
from layergraft.config.objectives import MaeConfig, MocoConfig
from layergraft.config.plan import FreezeBlocks, PlanConfig
from layergraft.config.recipe import EngineConfig, Recipe
from layergraft.config.stage import StageConfig
from layergraft.data.batch import Batch
from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.objectives.mae import Mae
from layergraft.objectives.moco import Moco
from layergraft.training.cost import count_flops
from layergraft.training.launch import launch
from layergraft.training.run_data import RunData
from layergraft.training.stage import StageRun, prepare_stage
from layergraft.training.trainer import Trainer

IMAGES = "builtin:fashion-canvas"
Step = Callable[[], object]


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_peak_gflops(device: torch.device, size: int = 2048, repeats: int = 8) -> float:
    """The best rate of an fp32 matrix product, in GFLOP/s."""
    (a, b), best = torch.randn(2, size, size, device=device), 0.0
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def prepare(
    config: MaeConfig | MocoConfig,
    encoder: EncoderConfig,
    batch_size: int,
    frozen: int,
    engine: EngineConfig | None = None,
) -> tuple[Trainer, Batch]:
    """A stage as `train` would build it, and one batch of it.

    Args:
        config: the objective.
        encoder: what is trained.
        batch_size: images of a step.
        frozen: lowest blocks that do not move, with all below them; at 0 only what the method keeps fixed: the
            positions and, in MoCo v3, the patch projection.
        engine: with another precision than fp32.
    """
    fixed = ("positions",) if isinstance(config, MaeConfig) else ("patch_embed", "positions")
    plan = PlanConfig(freeze=FreezeBlocks(blocks=frozen) if frozen else fixed)
    stage = StageConfig(objective=config, plan=plan, views=config.views, epochs=1000, batch_size=batch_size)
    recipe = Recipe(encoder=encoder, stages={"bench": stage}, evaluate=None, engine=engine or EngineConfig())
    source = open_source(IMAGES)
    fresh = create_encoder(encoder, 0)
    data = RunData(train=source, holdout=source.subset(source.keys[:0]), mean=fresh.mean, std=fresh.std)
    run = prepare_stage(recipe, "bench", Path(), fresh, data)
    trainer = Trainer(launch(), run)
    trainer.begin()
    return trainer, run.loader.batch(0)


def our_step(trainer: Trainer, batch: Batch) -> Step:
    """A step of the training loop, from pixels to new weights."""

    def step() -> None:
        outcome = trainer.compute(batch)
        assert bool(torch.isfinite(outcome.size))
        trainer.accept(outcome)

    return step


def reference_model(stage: StageRun) -> reference.Mae | reference.Moco:
    """The straightforward model with a stage's weights, frozen where they are.

    Raises:
        UserError: the encoder has what the reference has not: registers, LayerScale, ...
    """
    encoder, objective = stage.encoder, stage.objective
    heads = int(encoder.vit.blocks[0].attn.num_heads)

    def plain(source: Encoder) -> reference.Vit:
        height, width = source.input_size
        if height != width:
            raise UserError("The reference of `bench step` knows square images alone.", "Set --img-size to one number.")
        vit = reference.Vit(height, source.in_chans, source.patch_size, source.embed_dim, source.depth, heads)
        try:
            vit.load_state_dict(source.vit.state_dict())
        except RuntimeError:
            raise UserError(
                f"The reference of `bench step` cannot be built as {encoder.architecture!r}.",
                "Take a plain one with a class token, such as vit_small_patch16_224.",
            ) from None
        trained = {name for name, parameter in source.vit.named_parameters() if parameter.requires_grad}
        for name, parameter in vit.named_parameters():
            parameter.requires_grad_(name in trained)
        return vit

    if isinstance(objective, Mae):
        settings, pixels = objective.config.decoder, encoder.patch_size**2 * encoder.in_chans
        size = (settings.embed_dim, settings.depth, settings.num_heads)
        decoder = reference.Decoder(encoder.num_patches, pixels, encoder.embed_dim, *size)
        decoder.load_state_dict(objective.heads["decoder"].state_dict())
        return reference.Mae(plain(encoder), decoder, encoder.patch_size, objective.config.mask_ratio)
    assert isinstance(objective, Moco)
    config, momentum_encoder = objective.config, objective.momentum_copies["encoder"]
    assert isinstance(momentum_encoder, Encoder)
    widths = (encoder.embed_dim, config.projector, config.predictor)
    model = reference.Moco(plain(encoder), plain(momentum_encoder), *widths, config.temperature)
    model.projector.load_state_dict(objective.heads["projector"].state_dict())
    model.predictor.load_state_dict(objective.heads["predictor"].state_dict())
    model.slow_projector.load_state_dict(objective.momentum_copies["projector"].state_dict())
    model.slow_projector.requires_grad_(False)
    return model


def reference_inputs(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the straightforward model sees of a batch: images and noise, or two views."""
    views = {name: trainer.normalize(trainer.to_device(pixels)) for name, pixels in batch.views.items()}
    if "image" in views:
        return views["image"], batch.uniform("mask", trainer.stage.encoder.num_patches, views["image"].device)
    return views["first"], views["second"]


def reference_step(trainer: Trainer, batch: Batch) -> Step:
    """A step of the straightforward model from the same weights, on the same images, normalised beforehand."""
    inputs = reference_inputs(trainer, batch)
    model = reference_model(trainer.stage).to(inputs[0].device)
    settings = trainer.stage.config.optimizer
    optimizer = reference.adamw(model, settings.base_lr, settings.weight_decay)
    if isinstance(model, reference.Mae):
        return lambda: reference.mae_step(model, optimizer, *inputs)
    return lambda: reference.moco_step(model, optimizer, *inputs, 0.99)


def reference_gflop(trainer: Trainer, batch: Batch) -> float:
    """GFLOP an image of the straightforward step, forwards and backwards, by the formula of each product."""
    part = batch.part(0, 2)
    inputs = reference_inputs(trainer, part)
    model = reference_model(trainer.stage).to(inputs[0].device)
    return count_flops(lambda: model(*inputs).backward()) / len(part.keys) / 1e9


def settle(turns: Sequence[Step], rounds: int = 10) -> None:
    """Run steps in turn until the process has got all the memory it needs; `rounds` of them at most."""
    before = 0
    for _ in range(rounds):
        for step in turns:
            step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak == before:
            return
        before = peak


def alternate(ours: Sequence[Step], plain: Step, seconds: float, device: torch.device) -> tuple[list[float], float]:
    """Time steps that take turns with each other and with a matrix product.

    A slow moment of the machine (another process, another guest of the same host) then meets all of them. All run in
    one process, whose C library keeps freed memory as in training: the straightforward step gains by that, too. Nothing
    counts before that memory has grown to all that the steps need, which takes the straightforward one several rounds.

    Args:
        ours: steps of the training loop.
        plain: the straightforward step.
        seconds: how long all of them together are measured; at least three rounds.
        device: where they run.

    Returns:
        (median seconds of each step, the straightforward one last; the product's best GFLOP/s).
    """
    turns = (*ours, plain)
    settle(turns)
    rounds: list[list[float]] = []
    peak, began = 0.0, time.perf_counter()
    while len(rounds) < 3 or time.perf_counter() - began < seconds:
        times = []
        for step in turns:
            wait(device)
            start = time.perf_counter()
            step()
            wait(device)
            times.append(time.perf_counter() - start)
        rounds.append(times)
        peak = max(peak, gemm_peak_gflops(device, repeats=4))
    return [float(x) for x in np.median(rounds, axis=0)], peak


def bench_step(
    objective: str,
    encoder_name: str,
    img_size: int,
    batch_size: int,
    frozen: Sequence[int] | None,
    seconds: float,
    quiet: bool,
) -> dict[str, Any]:
    """Steps with each number of frozen blocks and the straightforward one in turn; see `layergraft.bench`."""
    torch.set_float32_matmul_precision("highest")
    encoder = EncoderConfig(name=encoder_name, img_size=img_size)
    config = MaeConfig() if objective == "mae" else MocoConfig()
    prepared = [prepare(config, encoder, batch_size, count) for count in frozen or (0,)]
    steps = [our_step(*pair) for pair in prepared]
    gflop = reference_gflop(*prepared[0])
    device = prepared[0][0].parameters[0].device
    (*ours, plain), peak = alternate(steps, reference_step(*prepared[0]), seconds, device)
    rate, plain_rate = batch_size / ours[0], batch_size / plain
    figures: dict[str, Any] = {
        "images_per_second": rate,
        "gflop_per_image": gflop,
        "gemm_peak_gflops": peak,
        "gemm_fraction": rate * gflop / peak,
        "reference_images_per_second": plain_rate,
        "ratio": rate / plain_rate,
    }
    if frozen:
        figures["cases"] = [
            {"frozen": count, "images_per_second": batch_size / step_time, "ratio": ours[0] / step_time}
            for count, step_time in zip(frozen, ours, strict=True)
        ]
    if not quiet:
        console = Console(stderr=True)
        console.print(
            f"{objective} on {encoder_name}, {img_size} px, batch {batch_size}: {rate:.1f} images/s, "
            f"{figures['ratio']:.2f} x the straightforward step; {gflop:.2f} GFLOP an image there, "
            f"{figures['gemm_fraction']:.2f} of this machine's {peak:.0f} GFLOP/s"
        )
        for case in figures.get("cases", []):
            console.print(
                f"{case['frozen']} blocks frozen: {case['images_per_second']:.1f} images/s, {case['ratio']:.2f} x"
            )
    print(json.dumps(figures))
    return figures
