"""How much memory a step of a stage will take on one device, counted without running it.

The step is traced on tensors without content (torch's `FakeTensorMode`), and what autograd keeps is added up; weights,
gradients, optimizer and copies are counted from the plan.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from layergraft.config.encoder import height_and_width
from layergraft.config.recipe import EngineConfig
from layergraft.config.stage import PhaseConfig, StageConfig
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.encoders.partial_block import BLOCKS
from layergraft.encoders.vit import Encoder
from layergraft.graft.apply import stage_rows
from layergraft.graft.plan import Plan
from layergraft.objectives.base import Features, Objective, Progress
from layergraft.training.optim import moments_of
from layergraft.training.precision import attention_of, products_of

SMALL = 10_000_000  # parameters below which nobody runs out of memory by surprise


def step_memory(
    encoder: Encoder,
    objective: Objective,
    plan: Plan,
    config: StageConfig,
    engine: EngineConfig,
    device: torch.device,
    world_size: int = 1,
) -> int:
    """Bytes that one process needs for a step.

    Args:
        encoder: the stage's encoder, frozen where the plan says so.
        objective: after `start`, so that momentum copies are there.
        plan: the table.
        config: the stage, with the batch size that is used.
        engine: what saves memory.
        device: that trains.
        world_size: number of processes.
    """
    trained = sum(row.parameters for row in plan.rows if not row.frozen)
    anchored = sum(row.parameters for row in plan.rows if row.anchor is not None and not row.frozen)
    whole = sum(row.parameters for row in plan.rows)
    copies = sum(p.numel() for p in objective.momentum_copies.parameters()) + anchored
    if config.ema is not None:
        copies += sum(p.numel() for p in encoder.parameters())
    rows = stage_rows(encoder, objective)
    trained_parameters = [p for row in plan.rows if not row.frozen for p in rows[row.name]]
    moments = sum(moments_of(config.optimizer, parameter) * parameter.numel() for parameter in trained_parameters)
    split = world_size > 1 and engine.strategy == "fsdp"
    weights = 4 * (whole + copies + trained + moments)
    if world_size > 1 and not split:
        weights += 4 * trained  # the buckets in which gradients are exchanged
    images = -(-config.batch_size // world_size)
    phases: list[PhaseConfig | None] = [None, *config.progressive]
    activations = max(activation_memory(encoder, objective, config, engine, device, images, phase) for phase in phases)
    needed = weights // (world_size if split else 1) + activations
    return needed * (2 if engine.precision == "64-true" else 1)


def activation_memory(
    encoder: Encoder,
    objective: Objective,
    config: StageConfig,
    engine: EngineConfig,
    device: torch.device,
    images: int,
    phase: PhaseConfig | None = None,
) -> int:
    """Bytes that autograd keeps for the backward pass of `images` images, in a first part of the stage or the rest."""
    size = min(engine.micro_batch or images, images)
    seen = size if objective.per_sample else images
    mode, twin, target = without_content(encoder, objective)
    saved = _Saved(nn.ModuleList([twin, target]))
    blocks = _Blocks(twin, saved) if engine.activation_checkpointing else nullcontext()
    low = products_of(engine)
    attention = attention_of(engine, encoder, device)(nn.ModuleList([twin, target]))
    with mode, attention, torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None):
        with blocks as again:
            encoded = saved.during(lambda: target.encode(twin, batch_of_shapes(twin, config, size, phase)))
        with torch.no_grad():
            features: Features = target.encode(twin, batch_of_shapes(twin, config, seen, phase))
        leaves = {
            name: value.detach().requires_grad_(value.is_floating_point() and not name.endswith("_momentum"))
            for name, value in features.items()
        }
        lost = saved.during(lambda: target.losses(leaves, Progress(step=0, steps=1)))
        pixels = sum(view.nbytes for view in batch_of_shapes(twin, config, seen, phase).views.values())
    return encoded + lost + pixels - (again.spared if isinstance(again, _Blocks) else 0)


def without_content(encoder: Encoder, objective: Objective) -> tuple[FakeTensorMode, Encoder, Objective]:
    """(the mode to trace in, copies whose tensors have shapes alone)."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        twin, target = copy.deepcopy((encoder, objective))
    return mode, twin, target


def batch_of_shapes(encoder: Encoder, config: StageConfig, images: int, phase: PhaseConfig | None = None) -> Batch:
    """A batch without content; for use within the mode.

    Args:
        encoder: tells size and channels.
        config: tells the views.
        images: how many.
        phase: the first part of the stage that it belongs to; None for the rest.
    """
    usual = encoder.img_size if phase is None or phase.size is None else phase.size
    sizes = {name: height_and_width(view.size or usual) for name, view in config.views.items()}
    return Batch(
        keys=np.arange(images),
        epoch=0,
        views={name: torch.empty(images, encoder.in_chans, *size) for name, size in sizes.items()},
        labels=torch.zeros(images, dtype=torch.long),
        random=Randomness(seed=0, scope="memory"),
        keep_ratio=None if phase is None else phase.keep_ratio,
        masks={name: torch.zeros(images, *size, dtype=torch.uint8) for name, size in sizes.items()},
    )


class _Saved:
    """Adds up the storages that autograd keeps, each once, parameters excluded."""

    def __init__(self, module: nn.Module) -> None:
        self.known = {p.untyped_storage()._cdata for p in module.parameters()}
        self.kept: list[object] = []
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.kept.append(tensor)  # or its number might come again
            self.bytes += storage.nbytes()
        return tensor

    def during(self, call: Callable[[], object]) -> int:
        """What is kept by a call, in bytes."""
        before = self.bytes
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            self.kept.append(call())  # its graph must live as long as the count
        return self.bytes - before


class _Blocks:
    """What blocks that are computed again spare: all that they keep but their inputs and one block's share."""

    def __init__(self, encoder: Encoder, saved: _Saved) -> None:
        self.encoder, self.saved = encoder, saved
        self.shares: list[tuple[int, int]] = []
        self._hooks: list[Any] = []

    def _before(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._began = self.saved.bytes

    def _after(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.shares.append((self.saved.bytes - self._began, inputs[0].nbytes))

    @property
    def spared(self) -> int:
        kept = [share for share, _ in self.shares]
        return max(0, sum(kept) - sum(size for _, size in self.shares) - max(kept, default=0))

    def __enter__(self) -> _Blocks:
        for block in self.encoder.modules():
            if isinstance(block, BLOCKS):
                self._hooks += [block.register_forward_pre_hook(self._before), block.register_forward_hook(self._after)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a device (a CPU: within its container's limit); None if the platform does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
        if limit.is_file() and limit.read_text().strip() != "max":
            free = min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, KeyError, ValueError):
        return None
    return free


def memory_warning(name: str, needed: int, device: torch.device) -> str | None:
    """A sentence where a stage will not fit."""
    free = free_memory(device)
    if free is None or needed <= free:
        return None
    return (
        f"Stage {name} needs about {needed / 2**30:.1f} GiB on {device}, where {free / 2**30:.1f} GiB are free. "
        "Smaller: engine.activation_checkpointing true, engine.micro_batch, engine.precision bf16-mixed, or more "
        "processes with engine.strategy fsdp."
    )
