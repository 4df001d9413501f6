"""The loop: one stage, from its first step or its last checkpoint to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from layergraft.config.recipe import EngineConfig
from layergraft.config.stage import OptimizerConfig, StageConfig
from layergraft.data.batch import Batch, Normalize
from layergraft.data.loader import TrainLoader
from layergraft.graft.apply import Anchor, Rows, parameter_groups
from layergraft.graft.plan import Plan
from layergraft.models.batchnorm import Pending, apply_pending, collect_pending
from layergraft.models.momentum import momentum_update
from layergraft.models.vit import Encoder
from layergraft.objectives.base import Losses, Objective, Progress
from layergraft.training.guard import BadSteps, SignalGuard
from layergraft.training.metrics import MetricsFile
from layergraft.training.monitor import Monitor
from layergraft.training.schedule import lr_factor
from layergraft.training.state import Checkpoints, State

Report = Callable[[dict[str, Any], int], None]


class TrainStep(nn.Module):
    """Encoder and objective as one module, so that a data-parallel wrapper sees one forward."""

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, batch: Batch, progress: Progress) -> tuple[Losses, Pending, Pending]:
        """(losses, what the objective waits to change, the encoder's new BatchNorm buffers)."""
        losses, pending = self.objective.losses(self.objective.encode(self.encoder, batch), progress)
        return losses, pending, collect_pending(self.encoder)


@dataclass(kw_only=True)
class StageRun:
    """One stage, ready to be trained.

    Args:
        name: the stage's name.
        config: its configuration.
        engine: how it is carried out.
        encoder: with the weights it starts from.
        objective: with the heads it starts from.
        ema: running average of the encoder, or None.
        rows: row -> parameters.
        plan: the table.
        loader: the batches.
        directory: where metrics and checkpoints go.
        monitor: what is watched, or None.
    """

    name: str
    config: StageConfig
    engine: EngineConfig
    encoder: Encoder
    objective: Objective
    ema: Encoder | None
    rows: Rows
    plan: Plan
    loader: TrainLoader
    directory: Path
    monitor: Monitor | None

    @property
    def steps(self) -> int:
        return max(1, round(self.config.epochs * self.loader.steps_per_epoch))

    @property
    def warmup_steps(self) -> int:
        return round(self.config.warmup_epochs * self.loader.steps_per_epoch)

    @property
    def final_factor(self) -> float:
        """Where the schedule ends, as a factor of the peak learning rate."""
        optimizer = self.config.optimizer
        return optimizer.min_lr / (optimizer.base_lr * self.config.batch_size / 256) if optimizer.min_lr else 0.0


def update_rule(settings: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The configured optimizer over parameter groups that bring their own `lr` and `weight_decay`."""
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True)


def build_optimizer(stage: StageRun) -> torch.optim.Optimizer:
    """The stage's optimizer over its plan's groups."""
    return update_rule(stage.config.optimizer, parameter_groups(stage.rows, stage.plan))


def _finite(loss: Tensor, parameters: list[nn.Parameter]) -> bool:
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = torch.stack(torch._foreach_norm(gradients)).sum() + loss.detach().to(gradients[0].device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return bool(torch.isfinite(total))


def _save(stage: StageRun, optimizer: torch.optim.Optimizer, anchor: Anchor, step: int) -> State:
    return {
        "step": step,
        "encoder": stage.encoder.state_dict(),
        "objective": stage.objective.state_dict(),
        "ema": stage.ema.state_dict() if stage.ema else {},
        "optimizer": optimizer.state_dict(),
        "anchor": anchor.start,
    }


def _restore(stage: StageRun, optimizer: torch.optim.Optimizer, anchor: Anchor, state: State) -> int:
    stage.encoder.load_state_dict(state["encoder"])
    stage.objective.load_state_dict(state["objective"])
    if stage.ema:
        stage.ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    anchor.start = [start.to(now.device) for start, now in zip(state["anchor"], anchor.start, strict=True)]
    return int(state["step"])


def train_stage(fabric: Fabric, stage: StageRun, report: Report, warn: Callable[[str], None]) -> None:
    """Train a stage to its end; encoder, objective and ema hold the result.

    Args:
        fabric: launched.
        stage: what to train.
        report: called with each row of the metrics and the number of steps of the stage.
        warn: called with a sentence that the user should see.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: the run diverged or the disk is full.
    """
    checkpoints = Checkpoints(stage.directory / "checkpoints", stage.engine.keep, warn)
    anchor = Anchor(stage.rows, stage.plan)
    module = TrainStep(stage.encoder, stage.objective).train()
    model = fabric.setup_module(module)
    # The optimizer is set up apart: frozen rows have no group, and the model may have been moved to a device.
    optimizer: Any = fabric.setup_optimizers(build_optimizer(stage))
    anchor.start = [start.to(fabric.device) for start in anchor.start]
    state = checkpoints.newest()
    step = _restore(stage, optimizer.optimizer, anchor, state) if state else 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    metrics = MetricsFile(stage.directory / "metrics.jsonl", step) if fabric.is_global_zero else None
    normalize = Normalize(mean=stage.encoder.mean, std=stage.encoder.std)
    bad, saved = BadSteps(), time.monotonic()
    window, waited, images = time.perf_counter(), 0.0, 0
    with SignalGuard() as signals:
        batches = stage.loader.batches(step, stage.steps)
        while step < stage.steps:
            asked = time.perf_counter()
            raw = next(batches)
            waited += time.perf_counter() - asked
            views = {name: normalize(fabric.to_device(pixels)) for name, pixels in raw.views.items()}
            batch = replace(raw, views=views)
            progress = Progress(step=step, steps=stage.steps)
            factor = lr_factor(step, stage.steps, stage.warmup_steps, stage.final_factor)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            numbers = stage.objective.before_step(stage.encoder, progress)
            losses, pending, buffers = model(batch, progress)
            held = anchor()
            total = losses["loss"] if held is None else losses["loss"] + held
            fabric.backward(total)
            if bad.accept(_finite(total, parameters), stage.name, step):
                optimizer.step()
                stage.objective.after_step(pending)
                apply_pending(stage.encoder, buffers)
                if stage.ema and stage.config.ema is not None:
                    momentum_update(stage.ema, stage.encoder, stage.config.ema)
                    for kept, value in zip(stage.ema.buffers(), stage.encoder.buffers(), strict=True):
                        kept.copy_(value)
            optimizer.zero_grad(set_to_none=True)
            step += 1
            images += stage.config.batch_size
            look = stage.monitor is not None and stage.monitor.due(step, stage.steps, stage.loader.steps_per_epoch)
            if step % stage.engine.log_every == 0 or step == stage.steps or look:
                elapsed = time.perf_counter() - window
                row: dict[str, Any] = {
                    "stage": stage.name,
                    "step": step,
                    "epoch": round(step / stage.loader.steps_per_epoch, 4),
                    **{
                        name: float(cast(Tensor, fabric.all_reduce(value.detach(), reduce_op="mean")))
                        for name, value in losses.items()
                    },
                    "lr": max(group["lr"] for group in optimizer.param_groups),
                    **numbers,
                }
                if held is not None:
                    row["anchor"] = float(held.detach())
                if look and stage.monitor is not None and fabric.is_global_zero:
                    row |= stage.monitor.look(stage.encoder)
                row |= {"images_per_second": images / elapsed, "data_wait": waited / elapsed, "time": time.time()}
                if metrics:
                    metrics.write(row)
                report(row, stage.steps)
                window, waited, images = time.perf_counter(), 0.0, 0
            stop = signals.stop_requested()
            every = stage.engine.checkpoint_steps
            due = (every is not None and step % every == 0) or _late(saved, stage.engine.checkpoint_minutes)
            if stop or due or step == stage.steps:
                if fabric.is_global_zero:
                    checkpoints.save(step, _save(stage, optimizer.optimizer, anchor, step))
                saved = time.monotonic()
            if stop and step < stage.steps:
                raise signals.stopped()
    if metrics:
        metrics.close()


def _late(saved: float, minutes: float) -> bool:
    """Whether a checkpoint is due; process 0 decides for all by being the one that writes."""
    return time.monotonic() - saved > 60 * minutes
