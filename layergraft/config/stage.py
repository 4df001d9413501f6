"""A stage: what one step of a recipe trains, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from layergraft.config.base import (
    Config,
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeNumber,
    PositiveFraction,
    PositiveInt,
    PositiveNumber,
)
from layergraft.config.data import ViewConfig
from layergraft.config.encoder import ImageSize
from layergraft.config.guard import GuardConfig
from layergraft.config.objectives import JointConfig, MaeConfig, ObjectiveConfig
from layergraft.config.plan import PlanConfig
from layergraft.config.supervised import SegmentConfig

# Two keys of a stage that say the same -> what the other becomes where one is set.
EITHER: Mapping[str, tuple[str, int | None]] = {
    "steps": ("epochs", None),
    "epochs": ("steps", None),
    "warmup_steps": ("warmup_epochs", 0),
    "warmup_epochs": ("warmup_steps", None),
}


def without_other(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What the changed keys of a stage make of those that say the same and are not changed themselves."""
    others = {other: value for key, (other, value) in EITHER.items() if changes.get(key) is not None}
    return {key: value for key, value in others.items() if key not in changes}


class OptimizerConfig(Config, frozen=True, kw_only=True):
    """An optimizer with linear warm-up and a schedule that is updated every step.

    Args:
        name: `adamw`; `muon` for matrices and AdamW for the rest, at learning rates that compare; or `sgd`, whose
            weight decay is added to the gradient.
        base_lr: learning rate at a batch of 256; the peak is base_lr * batch / 256 * lr_scale.
        min_lr: learning rate at the end of the stage, before the factor lr_scale.
        schedule: after warm-up, `cosine` falls to the end; `wsd` (warm-up, stable, decay) stays at the peak and falls
            in the last part alone, as the square root of what is left goes to 0 (Hägele et al., NeurIPS 2024).
        cooldown: the part of a stage's steps in which `wsd` falls.
        clip_grad_norm: the largest norm of the loss's gradient over all trained parameters; a larger one is scaled
            down to it. null clips nothing.
        betas: AdamW's decay of the running averages of gradient and squared gradient.
        weight_decay: weight decay of matrices.
        eps: AdamW's: added to the denominator.
        momentum: SGD's.
        muon_momentum: Muon's, of Nesterov's kind.
    """

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    base_lr: NonNegativeFloat = 1.5e-4
    min_lr: NonNegativeFloat = 0.0
    schedule: Literal["cosine", "wsd"] = "cosine"
    cooldown: PositiveFraction = 0.2
    clip_grad_norm: PositiveNumber | None = None
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.05
    eps: NonNegativeFloat = 1e-8
    momentum: FractionBelowOne = 0.0
    muon_momentum: FractionBelowOne = 0.95

    def __post_init__(self) -> None:
        if self.min_lr > self.base_lr == 0:
            raise ValueError("`min_lr` needs a `base_lr` above 0: it is reached as a factor of that")


class PhaseConfig(Config, frozen=True, kw_only=True):
    """A first part of a stage that sees smaller images, or fewer of their patches (progressive resizing).

    Args:
        until: where it ends, as a part of the stage's steps.
        size: side in pixels, or `[height, width]`, of the views that have no `size` of their own; null is the
            encoder's.
        keep_ratio: in place of the objective's (`moco`, `simclr`, `vicreg`); null leaves that.
    """

    until: Annotated[float, Meta(gt=0, lt=1)]
    size: ImageSize | None = None
    keep_ratio: PositiveFraction | None = None


class StageConfig(Config, frozen=True, kw_only=True):
    """One stage of training: objective, plan, views, optimizer, schedule and length.

    Args:
        objective: what is trained for.
        plan: how each layer moves.
        views: view name -> changed fields of the objective's own views.
        optimizer: how its weights are updated.
        epochs: length in passes over the training images; 100 where no length is given, null where `steps` is.
        steps: length in steps of the optimizer, whatever the number of images; null where `epochs` is given.
        warmup_epochs: epochs of linear warm-up.
        warmup_steps: steps of linear warm-up, in place of `warmup_epochs`; null where that counts.
        batch_size: images of a step, over all processes.
        ema: decay of a running average of the encoder that is kept for evaluation; null for none.
        guard: leaves the best point on held-out images, at worst what the stage started from; null leaves the last.
        branch: a run, one of its stages or a checkpoint of one, of the same name and the schedule `wsd`, whose state
            before the decay this stage goes on from with a length and a decay of its own; null begins at step 0.
        progressive: first parts of the stage on smaller images or fewer patches, one after another; behind the last one
            everything is as the rest of the stage says.
        snapshots: parts of its steps (0.25, 0.5) after which encoder and heads are kept as well, in `snapshots/0.25`.
    """

    objective: ObjectiveConfig
    plan: PlanConfig = PlanConfig()
    views: dict[str, ViewConfig] = {}
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: PositiveNumber | None = None
    steps: PositiveInt | None = None
    warmup_epochs: NonNegativeNumber = 0
    warmup_steps: NonNegativeInt | None = None
    batch_size: PositiveInt = 256
    ema: Fraction | None = None
    guard: GuardConfig | None = None
    branch: str | None = None
    progressive: tuple[PhaseConfig, ...] = ()
    snapshots: tuple[Annotated[float, Meta(gt=0, lt=1)], ...] = ()

    def __post_init__(self) -> None:
        self._check_progressive()
        if self.branch is not None and self.guard is not None:
            raise ValueError("a stage with a `branch` takes no `guard`, which would begin in its middle")
        if self.epochs is None and self.steps is None:
            msgspec.structs.force_setattr(self, "epochs", 100)
        elif self.epochs is not None and self.steps is not None:
            raise ValueError("a stage has `epochs` or `steps`: set the other one to null")
        if self.warmup_epochs and self.warmup_steps is not None:
            raise ValueError("a stage has `warmup_epochs` or `warmup_steps`: set the other one to 0 or null")

    def _check_progressive(self) -> None:
        """Refuse parts that are not in order, and what the objective cannot do."""
        ends = [phase.until for phase in self.progressive]
        if ends != sorted(set(ends)):
            raise ValueError("`progressive` needs its parts in order: each `until` above the one before")
        objective = self.objective
        parts = list(objective.parts.values()) if isinstance(objective, JointConfig) else [objective]
        if any(phase.keep_ratio is not None for phase in self.progressive) and not any(
            hasattr(part, "keep_ratio") for part in parts
        ):
            raise ValueError("`progressive` has a `keep_ratio`, which only `moco`, `simclr` and `vicreg` know")
        if any(phase.size is not None for phase in self.progressive) and any(
            isinstance(part, (MaeConfig, SegmentConfig)) for part in parts
        ):
            raise ValueError("`progressive` has a `size`, but `mae` and `segment` predict images of the encoder's size")

    def steps_per_epoch(self, images: int) -> int:
        """Whole batches of so many training images; of fewer than a batch one, which takes them all."""
        return max(1, images // self.batch_size)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the optimizer, at least one.

        Args:
            steps_per_epoch: whole batches of the training images.
        """
        return self.steps or max(1, round((self.epochs or 0) * steps_per_epoch))

    def total_epochs(self, steps_per_epoch: int) -> float:
        """Passes over the training images, a fraction where the length is given in steps."""
        return self.epochs or (self.steps or 0) / steps_per_epoch

    def total_warmup_steps(self, steps_per_epoch: int) -> int:
        """Steps of linear warm-up."""
        return round(self.warmup_epochs * steps_per_epoch) if self.warmup_steps is None else self.warmup_steps
