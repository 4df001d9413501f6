"""A stage that is ready to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layergraft.config.recipe import EngineConfig
from layergraft.config.stage import StageConfig
from layergraft.data.loader import TrainLoader
from layergraft.encoders.vit import Encoder
from layergraft.graft.apply import Rows
from layergraft.graft.plan import Plan
from layergraft.objectives.base import Objective
from layergraft.training.best import Best
from layergraft.training.monitor import Monitor


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
        best: the weights of the best held-out epoch.
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
    best: Best

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
