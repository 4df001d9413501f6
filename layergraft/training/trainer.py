"""What changes while a stage is trained, and the two ends of a step: accepted or thrown away."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from layergraft.data.batch import Batch, Normalize
from layergraft.encoders.batchnorm import Pending, apply_pending, collect_pending
from layergraft.encoders.distributed import is_distributed
from layergraft.encoders.momentum import momentum_update
from layergraft.encoders.partial_block import BLOCKS
from layergraft.encoders.sharding import full, like, load_full, local, split_parameters
from layergraft.graft.apply import Anchor, stage_rows
from layergraft.graft.optimizer_groups import parameter_groups
from layergraft.objectives.base import Losses, Progress
from layergraft.runs.heap import set_memory_reuse
from layergraft.training.checkpoints import COUNTERS, State
from layergraft.training.gradients import Gradients, TrainStep
from layergraft.training.guard import Guard
from layergraft.training.launch import Process
from layergraft.training.optim import LossScaler, build_optimizer, clip_gradients, lr_factor
from layergraft.training.precision import attention_of, linear_products_of, products_of
from layergraft.training.stage import StageRun


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A step that is computed but not yet applied.

    Args:
        losses: of this process, without a graph.
        pending: what the objective changes if the step is accepted.
        buffers: the encoder's new BatchNorm buffers, where it has any.
        anchor: the anchor's penalty, or None.
        gradient_norm: of the loss's gradient before it was clipped, or None where it is not clipped.
        size: a number that is finite exactly if this process's loss and gradient are.
    """

    losses: Losses
    pending: Pending
    buffers: Pending
    anchor: Tensor | None
    gradient_norm: Tensor | None
    size: Tensor


class Trainer:
    """Model, optimizer, anchor, scaler and position of one stage.

    A step that is thrown away leaves no trace: whatever it would change, the momentum encoder included, changes in
    `accept` alone. So the momentum update that comes before a step's keys is made where the step before was accepted.

    `step` counts steps of the schedule. Batches are those of step `step + skipped_batches`: a run that went back to a
    checkpoint takes other images from there on.

    Args:
        process: launched.
        stage: what to train. Its modules are trained in place, or, split over processes, get the weights in `publish`.
    """

    def __init__(self, process: Process, stage: StageRun) -> None:
        self.stage = stage
        # What counts them in a checkpoint is in `checkpoints.COUNTERS`.
        self.step = 0  # of the schedule
        self.skipped_batches = 0  # left out by rollbacks
        self.rollbacks = 0  # to a checkpoint, so far
        self.rejected = 0  # steps in a row that were thrown away
        engine = stage.engine
        self.split = is_distributed() and engine.strategy == "fsdp"
        stage.encoder.recompute = engine.activation_checkpointing
        if process.device.type == "cpu":
            set_memory_reuse("give back" if engine.activation_checkpointing else "keep")
        assert engine.precision != "auto", "settled when the run began"
        low = products_of(engine)
        autocast = partial(torch.autocast, process.device.type, low) if low else nullcontext
        self.products = linear_products_of(engine, process.device)
        module = TrainStep(stage.encoder, stage.objective, autocast).train()
        self.attention = attention_of(engine, stage.encoder, process.device)
        self.ema = stage.ema
        if self.split:  # the stage keeps its own modules: split ones can neither be looked at nor saved
            module, self.ema = copy.deepcopy(module), copy.deepcopy(stage.ema)
        dtype = torch.float64 if engine.precision == "64-true" else torch.float32
        module.to(process.device, dtype)
        if self.ema:
            self.ema.to(process.device, dtype)
        if engine.compile:
            for part in module.modules():
                if isinstance(part, BLOCKS):
                    part.compile()  # in place: names of parameters stay
        if self.split:
            for whole in (module, self.ema) if self.ema else (module,):
                split_parameters(whole, process.device)
        self.encoder, self.objective = module.encoder, module.objective
        model: nn.Module = module
        if is_distributed() and not self.split:
            # BatchNorm's buffers are equal on all processes already: its statistics are the global batch's.
            with warnings.catch_warnings():  # newer versions of torch call the argument by another name
                warnings.simplefilter("ignore", FutureWarning)
                model = DistributedDataParallel(module, broadcast_buffers=False)
        self.rows = stage_rows(self.encoder, self.objective)
        self.anchor = Anchor(self.rows, stage.plan)
        self.optimizer = build_optimizer(stage.config.optimizer, parameter_groups(self.rows, stage.plan))
        self.scaler = LossScaler(engine.precision == "16-mixed")
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.gradients = Gradients(module, model, engine.micro_batch)
        self.device, self.to_device = process.device, process.to_device
        self.normalize = Normalize(mean=stage.encoder.mean, std=stage.encoder.std)
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
        self.numbers = self.objective.before_step(self.encoder, self.progress)

    def batches(self) -> Generator[Batch, None, None]:
        """What is left of the stage's batches."""
        skipped = self.skipped_batches
        return self.stage.loader.batches(self.step + skipped, self.stage.steps + skipped, skipped)

    def compute(self, raw: Batch) -> Outcome:
        """Loss and gradient of a batch as the loader gives it."""
        batch = raw.prepared(self.to_device, self.normalize)
        # Around the backward pass as well, which may compute blocks again.
        with self.products(), self.attention(self.gradients.step):
            losses, pending = self.gradients(batch, self.progress, self.scaler.scale)
        for parameter in self.objective.zero_gradient_parameters(self.encoder):
            if parameter.grad is not None:
                parameter.grad.zero_()
        gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
        if self.scaler.enabled:
            torch._foreach_mul_(gradients, 1 / self.scaler.scale)
        norm = clip_gradients(gradients, self.stage.config.optimizer.clip_grad_norm, self.split)
        penalty = self.anchor.pull()  # after it: clipping concerns the loss, and a strong anchor must hold
        if penalty is not None and self.split:
            dist.all_reduce(penalty)
        return Outcome(
            losses={name: value.detach() for name, value in losses.items()},
            pending=pending,
            buffers=collect_pending(self.encoder),
            anchor=penalty,
            gradient_norm=norm,
            size=torch.stack(torch._foreach_norm(gradients)).sum() + losses["loss"].detach(),
        )

    def accept(self, outcome: Outcome) -> None:
        """Apply a step, and prepare the next one."""
        stage = self.stage
        factor = lr_factor(self.step, stage.steps, stage.warmup_steps, stage.final_factor, stage.cooldown)
        if stage.guard is not None:
            factor *= stage.guard.lr_factor(self.step, stage.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.step()
        self.objective.after_step(outcome.pending)
        apply_pending(self.encoder, outcome.buffers)
        if self.ema and stage.config.ema is not None:
            momentum_update(self.ema, self.encoder, stage.config.ema)
            for buffer, value in zip(self.ema.buffers(), self.encoder.buffers(), strict=True):
                buffer.copy_(value)
        self.rejected = 0
        self._end_step(finite=True)
        if self.step < stage.steps:
            self.numbers = self.objective.before_step(self.encoder, self.progress)

    def reject(self) -> None:
        """Throw a step away; the next one takes the next batch."""
        if not self.scaler.searching:
            self.rejected += 1
        self._end_step(finite=False)

    def _end_step(self, finite: bool) -> None:
        self.scaler.update(finite)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def publish(self) -> None:
        """Bring the weights into the stage's own modules; all processes must call it."""
        if self.split:
            stage = self.stage
            stage.encoder.load_state_dict(full(self.encoder.state_dict()))
            stage.objective.load_state_dict(full(self.objective.state_dict()))
            if stage.ema and self.ema:
                stage.ema.load_state_dict(full(self.ema.state_dict()))

    def finish(self) -> None:
        """The end of a stage: its own modules hold the result, in fp32 whatever it was computed in."""
        self.publish()
        if self.stage.guard is not None:
            self.stage.guard.give_back(self.stage.modules)
        for module in self.stage.modules.values():
            module.float()

    def return_to_kept(self, guard: Guard) -> None:
        """Go on from the weights that the guard has kept, with fresh moments."""
        for name, module in {"encoder": self.encoder, "objective": self.objective, "ema": self.ema}.items():
            if module is not None:
                load_full(module, guard.weights[name])
        self.optimizer.state.clear()
        self.rejected = 0

    def keep_choices(self) -> None:
        """What an online evaluation chose, a buffer of the stage's objective, goes to the one that is trained."""
        if self.split:
            for trained, evaluated in zip(self.objective.buffers(), self.stage.objective.buffers(), strict=True):
                trained.copy_(evaluated)

    def state(self) -> State:
        """What a checkpoint holds: everything that a resumed stage needs, on any number of processes.

        Tensors are the live ones where one process holds them all.
        """
        state = {key: getattr(self, counter) for counter, key in COUNTERS.items()}
        state |= {
            "data": self.stage.loader.source.fingerprint,
            "encoder": self.encoder.state_dict(),
            "objective": self.objective.state_dict(),
            "ema": self.ema.state_dict() if self.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "anchor": self.anchor.start,
            "numbers": self.numbers,
            "best": self.stage.best.state_dict(),
            "guard": self.stage.guard.state_dict() if self.stage.guard else {},
            "threads": torch.get_num_threads(),
        }
        return full(state, keep=dist.get_rank() == 0) if self.split else state

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        load_full(self.encoder, state["encoder"])
        load_full(self.objective, state["objective"])
        if self.ema:
            load_full(self.ema, state["ema"])
        optimizer = state["optimizer"]
        moments = {}
        for index, entry in optimizer["state"].items():
            moments[index] = {name: like(value, self.parameters[index]) for name, value in entry.items()}
        self.optimizer.load_state_dict({**optimizer, "state": moments})
        self.scaler.load_state_dict(state["scaler"])
        self.anchor.start = [like(s, now) for s, now in zip(state["anchor"], self.anchor.start, strict=True)]
        self.numbers = state["numbers"]
        self.stage.best.load_state_dict(state["best"])
        if self.stage.guard is not None:
            self.stage.guard.load_state_dict(state["guard"])
        for counter, key in COUNTERS.items():
            setattr(self, counter, int(state[key]))
