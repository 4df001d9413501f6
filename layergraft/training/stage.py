"""A stage: what it consists of, and how it starts from the one before."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import nn

from layergraft.config.recipe import EngineConfig, Recipe
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import SegmentConfig
from layergraft.data.loader import Phase, TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.apply import RowParameters, hold_statistics, set_frozen, stage_plan
from layergraft.graft.donors import Donors
from layergraft.graft.initialize import start_weights
from layergraft.graft.plan import Plan
from layergraft.objectives.base import Objective
from layergraft.objectives.create import create_objective, know_classes
from layergraft.runs.announce import announce
from layergraft.runs.layout import snapshot_directory, stage_directory
from layergraft.runs.readable import counted
from layergraft.training.best_epoch import Best
from layergraft.training.branch import Branch, branch_in, decay_start
from layergraft.training.check_recipe import check_guard, check_heads
from layergraft.training.guard import Guard
from layergraft.training.launch import ALONE, Process
from layergraft.training.monitor import Monitor
from layergraft.training.run_data import RunData


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
        guard: what keeps the encoder from getting worse, or None.
        branch: the state of a trunk that it begins with, or None.
    """

    name: str
    config: StageConfig
    engine: EngineConfig
    encoder: Encoder
    objective: Objective
    ema: Encoder | None
    rows: RowParameters
    plan: Plan
    loader: TrainLoader
    directory: Path
    monitor: Monitor | None
    best: Best
    guard: Guard | None = None
    branch: Branch | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What has weights, by name."""
        return {"encoder": self.encoder, "objective": self.objective} | ({"ema": self.ema} if self.ema else {})

    @property
    def steps_done(self) -> int:
        """Steps of the whole stage: fewer than planned where its guard has ended it."""
        return self.steps if self.guard is None or self.guard.ended is None else self.guard.ended

    @property
    def kept_step(self) -> int:
        """The step whose weights the stage leaves."""
        return self.steps if self.guard is None else self.guard.kept_step

    def is_over(self, step: int) -> bool:
        """Whether nothing follows a step."""
        return step >= self.steps_done

    @property
    def steps(self) -> int:
        return self.config.total_steps(self.loader.steps_per_epoch)

    @property
    def epochs(self) -> float:
        return self.config.total_epochs(self.loader.steps_per_epoch)

    @property
    def decay_start(self) -> int | None:
        """The last step before the decay, whose state is kept for branches; None where the schedule has no such."""
        return decay_start(self.config, self.loader.steps_per_epoch)

    @property
    def snapshots(self) -> dict[Path, int]:
        """Directory of each snapshot -> the steps that are done when it is taken."""
        parts = self.config.snapshots
        return {snapshot_directory(self.directory, part): max(1, round(part * self.steps)) for part in parts}

    @property
    def warmup_steps(self) -> int:
        return self.config.total_warmup_steps(self.loader.steps_per_epoch)

    @property
    def final_factor(self) -> float:
        """Where the schedule ends, as a factor of the peak learning rate."""
        optimizer = self.config.optimizer
        return optimizer.min_lr / (optimizer.base_lr * self.config.batch_size / 256) if optimizer.min_lr else 0.0

    @property
    def cooldown(self) -> float | None:
        """The part of the steps in which the learning rate falls, None for a cosine from the warm-up on."""
        return self.config.optimizer.cooldown if self.config.optimizer.schedule == "wsd" else None


def prepare_stage(
    recipe: Recipe, name: str, run: Path, encoder: Encoder, data: RunData, process: Process = ALONE
) -> StageRun:
    """Build everything that a stage needs, with the weights it starts from.

    Args:
        recipe: the run's recipe.
        name: which stage.
        run: the run's directory.
        encoder: as the stage before left it; it becomes the stage's own.
        data: training and held-out images.
        process: which of the run's processes this is.

    Raises:
        UserError: the stage does not fit the images, the processes or the weights it starts from.
    """
    config = _complete(recipe.stages[name], name, data, process)
    random = Randomness(seed=recipe.seed, scope=name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.torch_seed("heads"))
        objective = create_objective(config.objective, encoder)
    rows, plan = stage_plan(config, name, encoder, objective, config.batch_size)

    names = list(recipe.stages)
    position = names.index(name)
    before = str(stage_directory(run, recipe, names[position - 1])) if position else recipe.start
    start_weights(
        encoder, objective, plan, Donors(recipe=recipe, stage=name, like=encoder, before=before).load, announce
    )
    set_frozen(rows, plan)
    hold_statistics(encoder, objective, plan)
    stem = encoder.vit.patch_embed
    if isinstance(stem, ConvStem) and stem.frozen and stem.is_new:
        announce(f"Stage {name} freezes a convolutional stem whose BatchNorm has seen no image: it will not normalise.")

    loader = TrainLoader(
        data.train,
        config.views,
        size=encoder.img_size,
        channels=encoder.in_chans,
        batch_size=config.batch_size,
        random=random,
        skipped=SkippedImages(recipe.data.max_bad, run / "skipped.jsonl", announce),
        rank=process.rank,
        world_size=process.world_size,
        workers=recipe.data.workers,
        augment=recipe.data.augment,
        masks=isinstance(config.objective, SegmentConfig),
        finish=not recipe.data.finishes_on(process.device.type),
        pin=process.device.type == "cuda",
        phases=_phases(config, len(data.train)),
    )
    steps = config.total_steps(loader.steps_per_epoch)
    return StageRun(
        name=name,
        config=config,
        engine=recipe.engine,
        encoder=encoder,
        objective=objective,
        ema=copy.deepcopy(encoder) if config.ema is not None else None,
        rows=rows,
        plan=plan,
        loader=loader,
        directory=stage_directory(run, recipe, name),
        monitor=Monitor(
            recipe.monitor, data.train, data.holdout, recipe.seed, config.total_epochs(loader.steps_per_epoch)
        ),
        best=Best(encoder, objective),
        branch=branch_in(run, recipe, name, loader.steps_per_epoch),
        guard=None if config.guard is None or stands_still(plan) else Guard(config.guard, data, recipe.seed, steps),
    )


def stands_still(plan: Plan) -> bool:
    """Whether a plan trains heads alone."""
    return all(row.frozen or row.name.startswith("heads.") for row in plan.rows)


def _phases(config: StageConfig, images: int) -> list[Phase]:
    """The first parts of a stage by the steps that they end before."""
    steps = config.total_steps(config.steps_per_epoch(images))
    return [
        Phase(stop=round(phase.until * steps), size=phase.size, keep_ratio=phase.keep_ratio)
        for phase in config.progressive
    ]


def _complete(config: StageConfig, name: str, data: RunData, process: Process) -> StageConfig:
    """The stage with the batch that its images allow and the number of classes that they have."""
    batch_size = min(config.batch_size, len(data.train))
    if batch_size % process.world_size:
        raise UserError(
            f"The batch of {batch_size} images does not divide over {counted(process.world_size, 'process')}.",
            f"Change --stages.{name}.batch_size.",
        )
    objective = know_classes(config.objective, data.train, name)
    check_heads(name, objective, data.holdout)
    check_guard(name, config, data.holdout)
    return msgspec.structs.replace(config, batch_size=batch_size, objective=objective)
