"""A recipe: a seed, an encoder, an optional start, and stages by name."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from layergraft.config.analysis import AnalysisName
from layergraft.config.base import (
    Config,
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeNumber,
    PositiveInt,
    PositiveNumber,
)
from layergraft.config.data import DataConfig
from layergraft.config.encoder import EncoderConfig
from layergraft.config.stage import StageConfig


class MonitorConfig(Config, frozen=True, kw_only=True):
    """What is watched while training, on held-out images.

    Args:
        every: epochs between two looks; 0 never looks. The last epoch of a stage is always looked at.
        images: at most this many training images are neighbours, and as many held-out images are classified. Both are
            held to 2.5 % of the images trained between two looks (but 100), so that looks take under 5 % of the time.
        protocols: what is measured where there are labels, `knn` and `ridge`.
        min_feature_std: warn of a collapse where the mean standard deviation of the normalised features is below this
            part of its value for features in all directions, 1/sqrt(width).
        min_rankme: warn where the effective rank of the features (RankMe) is below this.
    """

    every: NonNegativeNumber = 1
    images: PositiveInt = 2000
    protocols: tuple[Literal["knn", "ridge"], ...] = ("knn",)
    min_feature_std: NonNegativeFloat = 0.05
    min_rankme: NonNegativeFloat = 1.5


class EvaluateConfig(Config, frozen=True, kw_only=True):
    """What is measured once training has ended.

    Args:
        protocols: `knn`, `logistic`, `ridge`, `prototype` on frozen features; `linear`, `finetune`, `segment` train;
            `head` is the classifier that came with a checkpoint.
        variant: how a penalty is found, of `logistic` (`published`, `cv`, `holdout`, `label_free`) and `ridge`
            (`holdout`, `cv`, `label_free`); of `segment`: `linear`, `upernet`. A protocol that has none of those given
            takes its first.
        shots: labelled images per class (1, 5, ...) or a percentage ("1%"); null is 1, 5 and 10 on frozen features, and
            all labels where something is trained.
        splits: random splits per number of shots.
        pooling: `cls`, `mean`, `cls+mean` or `last4`; `auto` chooses one of them on held-out images.
        block: whose output is pooled, from 0, of protocols on frozen features and of `linear`; null is the last.
        keep: part of the patches of every image that frozen features are computed from, drawn at random five times;
            null sees all.
        k: neighbours of `knn`; several are chosen from on held-out images.
        temperature: of the neighbours' votes, likewise.
        linear: changed keys of the stage that trains `linear`: `{epochs: 30}`.
        finetune: likewise of `finetune`.
        segment: likewise of `segment` with a linear head on the frozen encoder.
        upernet: likewise of `segment` with an UperNet head.
    """

    protocols: tuple[Literal["knn", "logistic", "ridge", "prototype", "linear", "finetune", "segment", "head"], ...] = (
        "knn",
        "logistic",
    )
    variant: tuple[Literal["published", "cv", "holdout", "label_free", "linear", "upernet"], ...] = ("published",)
    shots: tuple[int | str, ...] | None = None
    splits: int = 5
    pooling: tuple[Literal["cls", "mean", "cls+mean", "last4", "auto"], ...] = ("cls",)
    block: NonNegativeInt | None = None
    keep: Annotated[float, Meta(gt=0, lt=1)] | None = None
    k: tuple[int, ...] = (20,)
    temperature: tuple[float, ...] = (0.07,)
    linear: StageConfig | None = None
    finetune: StageConfig | None = None
    segment: StageConfig | None = None
    upernet: StageConfig | None = None

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise ValueError("`k` needs numbers of neighbours, from 1 on")
        if not self.temperature or min(self.temperature) <= 0:
            raise ValueError("`temperature` must be above 0")
        if self.splits < 1:
            raise ValueError("`splits` must be at least 1")
        other = [name for name in self.protocols if name not in self.frozen_protocols]
        if self.block is not None and set(other) - {"linear"}:
            raise ValueError(f"`block` is for protocols on frozen features and `linear`, not for {', '.join(other)}")
        if self.keep is not None and other:
            raise ValueError(f"`keep` is for protocols on frozen features, not for {', '.join(other)}")
        if self.keep is not None and "auto" in self.pooling:
            raise ValueError("`keep` draws patches, and `pooling: auto` would be chosen on one draw: name a pooling")

        for name in ("linear", "finetune", "segment", "upernet"):
            stage: StageConfig | None = getattr(self, name)
            for key in ("guard", "branch", "snapshots") if stage is not None else ():
                if getattr(stage, key):
                    raise ValueError(f"`{name}` takes no `{key}`: its last epoch and its best one are measured")

    @property
    def frozen_protocols(self) -> tuple[str, ...]:
        """The protocols on frozen features that were asked for."""
        return tuple(name for name in self.protocols if name not in ("linear", "finetune", "segment", "head"))

    @property
    def frozen_shots(self) -> tuple[int | str, ...]:
        """Numbers of shots of the protocols on frozen features."""
        return (1, 5, 10) if self.shots is None else self.shots

    @property
    def trained_shots(self) -> tuple[int | str, ...]:
        """Numbers of shots of the trained protocols."""
        return ("100%",) if self.shots is None else self.shots

    @property
    def trained_stages(self) -> tuple[str, ...]:
        """Fields of this record that hold a stage of a protocol that was asked for."""
        names: list[str] = [name for name in ("linear", "finetune") if name in self.protocols]
        if "segment" in self.protocols:
            names += ["segment" if variant == "linear" else variant for variant in self.variants("segment")]
        return tuple(names)

    def variants(self, protocol: str) -> tuple[str, ...]:
        """The variants of a protocol that were asked for, its first one where none was."""
        known = VARIANTS[protocol]
        return tuple(variant for variant in self.variant if variant in known) or known[:1]

    @property
    def draws_tasks(self) -> bool:
        """Whether few-shot tasks are drawn from held-out images, to choose a penalty or a pooling."""
        penalty = any("holdout" in self.variants(name) for name in self.frozen_protocols if name in VARIANTS)
        return penalty or "auto" in self.pooling

    @property
    def takes_views(self) -> bool:
        """Whether a penalty is chosen by views of single images."""
        return any("label_free" in self.variants(name) for name in self.frozen_protocols if name in VARIANTS)

    @property
    def chooses(self) -> bool:
        """Whether something on frozen features is chosen on held-out images."""
        several = "knn" in self.frozen_protocols and len(self.k) * len(self.temperature) > 1
        return several or self.draws_tasks


VARIANTS = {
    "logistic": ("published", "cv", "holdout", "label_free"),
    "ridge": ("holdout", "cv", "label_free"),
    "segment": ("linear", "upernet"),
}
"""protocol -> how it can be carried out, the default first."""


class EngineConfig(Config, frozen=True, kw_only=True):
    """How the run is carried out; none of it changes what is learned, but for `precision`.

    Args:
        strategy: what several processes do: `ddp` keeps all weights in each, `fsdp` splits them (for large encoders).
        precision: `32-true`; with products in 16 bits: `bf16-mixed`, `16-mixed`; `64-true`, slow, to tell rounding
            from a mistake; or `auto`, `bf16-mixed` where a trial of a second says that the machine multiplies so much
            faster, else `32-true`. The run keeps which.
        products: what multiplies the matrices of linear layers in `32-true` on a CPU: `torch`, or `onednn`, which is
            2.2 times as fast on AMD's processors with AVX-512; `auto` takes it there, unless blocks are compiled. It
            sums in another order, so bits differ. The run's evaluation and analyses use the same.
        micro_batch: images of a process that go through the network at once, where the batch does not fit the memory;
            null takes all. The gradient is that of the whole batch, also for contrastive losses and BatchNorm heads.
        activation_checkpointing: keep the input of each block alone and compute the block again for the gradient: less
            than half the memory for about a third more time.
        compile: compile the transformer blocks with torch.compile.
        log_every: steps between two lines of `metrics.jsonl`.
        checkpoint_minutes: minutes between two checkpoints.
        checkpoint_steps: steps between two checkpoints, in addition; null for none.
        keep: how many checkpoints of a stage are kept.
        tracking: where the rows of `metrics.jsonl` go as well: `tensorboard`, `wandb`, `mlflow`, `trackio`.
        profile: how many steps of each stage are profiled, into `profile.json` (a Chrome trace); null for none.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true", "auto"] = "32-true"
    products: Literal["torch", "onednn", "auto"] = "torch"
    micro_batch: PositiveInt | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    log_every: PositiveInt = 10
    checkpoint_minutes: PositiveNumber = 5.0
    checkpoint_steps: PositiveInt | None = None
    keep: PositiveInt = 2
    tracking: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    profile: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.compile and self.products == "onednn":
            raise ValueError("`products: onednn` is not for compiled blocks, which choose products themselves")


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

    def __post_init__(self) -> None:
        if any(stage.branch is not None for stage in [*self.stages.values()][1:]):
            raise ValueError("`branch` is for the first stage: leave out those before it, the trunk holds their result")
        channels = self.encoder.in_chans
        for name in ("mean", "std"):
            values = getattr(self.data, name)
            if values is not None and len(values) != channels:
                raise ValueError(f"`data.{name}` has {len(values)} numbers, but `encoder.in_chans` is {channels}")
