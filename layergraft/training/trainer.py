"""What changes while a stage is trained, and the two ends of a step: accepted or thrown away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from layergraft.data.batch import Batch, Normalize
from layergraft.graft.apply import Anchor, parameter_groups
from layergraft.models.batchnorm import Pending, apply_pending, collect_pending
from layergraft.models.momentum import momentum_update
from layergraft.objectives.base import Losses, Progress
from layergraft.training.gradients import Gradients, TrainStep
from layergraft.training.optim import LossScaler, build_optimizer
from layergraft.training.schedule import lr_factor
from layergraft.training.stage_run import StageRun
from layergraft.training.state import State


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A step that is computed but not yet applied.

    Args:
        losses: of this process, without a graph.
        pending: what the objective changes if the step is accepted.
        buffers: the encoder's new BatchNorm buffers, where it has any.
        anchor: the anchor's penalty, or None.
        size: a number that is finite exactly if this process's loss and gradient are.
    """

    losses: Losses
    pending: Pending
    buffers: Pending
    anchor: Tensor | None
    size: Tensor


class Trainer:
    """Model, optimizer, anchor, scaler and position of one stage.

    A step that is thrown away leaves no trace: whatever it would change, the momentum encoder included, changes in
    `accept` alone. So the momentum update that comes before a step's keys is made where the step before was accepted.

    Args:
        fabric: launched.
        stage: what to train; its modules are moved to the device.
    """

    def __init__(self, fabric: Fabric, stage: StageRun) -> None:
        self.stage, self.step = stage, 0
        module = TrainStep(stage.encoder, stage.objective, fabric.autocast).train().to(fabric.device)
        if stage.ema:
            stage.ema.to(fabric.device)
        self.to_device = fabric.to_device
        self.normalize = Normalize(mean=stage.encoder.mean, std=stage.encoder.std)
        self.anchor = Anchor(stage.rows, stage.plan)
        self.optimizer = build_optimizer(stage.config.optimizer, parameter_groups(stage.rows, stage.plan))
        self.scaler = LossScaler(stage.engine.precision == "16-mixed")
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        model: nn.Module = module
        if dist.is_available() and dist.is_initialized():
            # BatchNorm's buffers are equal on all processes already: its statistics are the global batch's.
            model = DistributedDataParallel(module, broadcast_buffers=False)
        self.gradients = Gradients(module, model, stage.engine.micro_batch)
        self.numbers: dict[str, float] = {}

    @property
    def progress(self) -> Progress:
        return Progress(step=self.step, steps=self.stage.steps)

    @property
    def lr(self) -> float:
        """The largest learning rate of the step that was made last."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def begin(self) -> None:
        """Before the first step of a stage."""
        self.numbers = self.stage.objective.before_step(self.stage.encoder, self.progress)

    def compute(self, raw: Batch) -> Outcome:
        """Loss and gradient of a batch as the loader gives it."""
        views = {name: self.normalize(self.to_device(view)) for name, view in raw.views.items()}
        masks = {name: self.to_device(mask) for name, mask in raw.masks.items()}
        batch = replace(raw, views=views, masks=masks)
        losses, pending = self.gradients(batch, self.progress, self.scaler.scale)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.scaler.enabled:
            torch._foreach_mul_(gradients, 1 / self.scaler.scale)
        held = self.anchor.pull()
        size = torch.stack(torch._foreach_norm(gradients)).sum() + losses["loss"].detach()
        return Outcome(
            losses={name: value.detach() for name, value in losses.items()},
            pending=pending,
            buffers=collect_pending(self.stage.encoder),
            anchor=held,
            size=size,
        )

    def accept(self, outcome: Outcome) -> None:
        """Apply a step, and prepare the next one."""
        stage = self.stage
        factor = lr_factor(self.step, stage.steps, stage.warmup_steps, stage.final_factor)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.step()
        stage.objective.after_step(outcome.pending)
        apply_pending(stage.encoder, outcome.buffers)
        if stage.ema and stage.config.ema is not None:
            momentum_update(stage.ema, stage.encoder, stage.config.ema)
            for kept, value in zip(stage.ema.buffers(), stage.encoder.buffers(), strict=True):
                kept.copy_(value)
        self.scaler.update(finite=True)
        self._end_step()
        if self.step < stage.steps:
            self.numbers = stage.objective.before_step(stage.encoder, self.progress)

    def reject(self) -> None:
        """Throw a step away; the next one takes the next batch."""
        self.scaler.update(finite=False)
        self._end_step()

    def _end_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def state(self) -> State:
        """Everything that a resumed stage needs; tensors are the live ones."""
        stage = self.stage
        return {
            "step": self.step,
            "encoder": stage.encoder.state_dict(),
            "objective": stage.objective.state_dict(),
            "ema": stage.ema.state_dict() if stage.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "anchor": self.anchor.start,
            "numbers": self.numbers,
            "best": stage.best.state_dict(),
        }

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        self.stage.encoder.load_state_dict(state["encoder"])
        self.stage.objective.load_state_dict(state["objective"])
        if self.stage.ema:
            self.stage.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.anchor.start = [s.to(now.device) for s, now in zip(state["anchor"], self.anchor.start, strict=True)]
        self.step, self.numbers = int(state["step"]), state["numbers"]
        self.stage.best.load_state_dict(state["best"])
