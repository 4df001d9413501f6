"""A recipe: a seed, an encoder, an optional start, and stages by name."""

from __future__ import annotations

from typing import Literal

from layergraft.config.analysis import AnalysisName
from layergraft.config.base import Config
from layergraft.config.data import DataConfig
from layergraft.config.encoder import EncoderConfig
from layergraft.config.stage import StageConfig


class MonitorConfig(Config, frozen=True, kw_only=True):
    """What is watched while training, on held-out images.

    Args:
        every: epochs between two looks; 0 never looks. The last epoch of a stage is always looked at.
        images: at most this many training images are the neighbours.
    """

    every: int | float = 1
    images: int = 2000


class EvaluateConfig(Config, frozen=True, kw_only=True):
    """What is measured once training has ended.

    Args:
        protocols: `knn`, `logistic`.
        variant: of the logistic regression: `published`, `cv`.
        shots: labelled images per class (1, 5, ...) or a percentage ("1%").
        splits: random splits per number of shots.
        pooling: `cls`, `mean`, `cls+mean` or `last4`.
    """

    protocols: tuple[Literal["knn", "logistic"], ...] = ("knn", "logistic")
    variant: tuple[Literal["published", "cv"], ...] = ("published",)
    shots: tuple[int | str, ...] = (1, 5, 10)
    splits: int = 5
    pooling: tuple[Literal["cls", "mean", "cls+mean", "last4"], ...] = ("cls",)


class EngineConfig(Config, frozen=True, kw_only=True):
    """How the run is carried out; none of it changes what is learned, but for `precision`.

    Args:
        precision: Lightning Fabric's name: `32-true`, `bf16-mixed`, `16-mixed`.
        micro_batch: images of a process that go through the network at once, where the batch does not fit the memory;
            null takes all. The gradient is that of the whole batch, also for contrastive losses and BatchNorm heads.
        log_every: steps between two lines of `metrics.jsonl`.
        checkpoint_minutes: minutes between two checkpoints.
        checkpoint_steps: steps between two checkpoints, in addition; null for none.
        keep: how many checkpoints of a stage are kept.
    """

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    micro_batch: int | None = None
    log_every: int = 10
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    keep: int = 2


class Recipe(Config, frozen=True, kw_only=True):
    """Everything that decides a run.

    Args:
        seed: of every random number.
        encoder: the network.
        start: an encoder to start from, for instance a released MAE file; null starts from fresh weights.
        data: the images.
        stages: name -> stage, trained one after another.
        evaluate: what is measured at the end; null measures nothing.
        analyze: what is looked at inside the last encoder at the end (`layergraft analyze` can do it later, too).
        monitor: what is watched while training.
        engine: how the run is carried out.
    """

    seed: int = 0
    encoder: EncoderConfig = EncoderConfig()
    start: str | None = None
    data: DataConfig = DataConfig()
    stages: dict[str, StageConfig]
    evaluate: EvaluateConfig | None = EvaluateConfig()
    analyze: tuple[AnalysisName, ...] = ("reconstruct", "neighbours")
    monitor: MonitorConfig = MonitorConfig()
    engine: EngineConfig = EngineConfig()
