"""A stage: what one step of a recipe trains, and how."""

from __future__ import annotations

from typing import Literal

from layergraft.config.base import (
    Config,
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeNumber,
    PositiveInt,
    PositiveNumber,
)
from layergraft.config.data import ViewConfig
from layergraft.config.objectives import ObjectiveConfig
from layergraft.config.plan import PlanConfig


class OptimizerConfig(Config, frozen=True, kw_only=True):
    """An optimizer with linear warm-up and a cosine, updated every step.

    Args:
        name: `adamw`, or `sgd`, whose weight decay is added to the gradient.
        base_lr: learning rate at a batch of 256; the peak is base_lr * batch / 256 * lr_scale.
        min_lr: learning rate at the end of the stage, before the factor lr_scale.
        betas: AdamW's decay of the running averages of gradient and squared gradient.
        weight_decay: weight decay of matrices.
        eps: AdamW's: added to the denominator.
        momentum: SGD's.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    base_lr: NonNegativeFloat = 1.5e-4
    min_lr: NonNegativeFloat = 0.0
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.05
    eps: NonNegativeFloat = 1e-8
    momentum: FractionBelowOne = 0.0

    def __post_init__(self) -> None:
        if self.min_lr > self.base_lr == 0:
            raise ValueError("`min_lr` needs a `base_lr` above 0: it is reached as a factor of that")


class StageConfig(Config, frozen=True, kw_only=True):
    """One stage of training: objective, plan, views, optimizer, schedule and length.

    Args:
        objective: what is trained for.
        plan: how each layer moves.
        views: view name -> changed fields of the objective's own views.
        optimizer: how its weights are updated.
        epochs: passes over the training images.
        warmup_epochs: epochs of linear warm-up.
        batch_size: images of a step, over all processes.
        ema: decay of a running average of the encoder that is kept for evaluation; null for none.
    """

    objective: ObjectiveConfig
    plan: PlanConfig = PlanConfig()
    views: dict[str, ViewConfig] = {}
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: PositiveNumber = 100
    warmup_epochs: NonNegativeNumber = 0
    batch_size: PositiveInt = 256
    ema: Fraction | None = None
