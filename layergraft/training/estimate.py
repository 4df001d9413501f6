"""How long a run will take on this machine, from short pieces of it that are carried out."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from layergraft.config.encoder import height_and_width
from layergraft.config.recipe import EvaluateConfig, Recipe
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import extract_all
from layergraft.evaluation.few_shot import FEW_SHOT
from layergraft.evaluation.frozen import DRAWS
from layergraft.evaluation.single_images import TASKS, VIEWS, WAYS
from layergraft.runs.interruption import check
from layergraft.runs.run_time import RunTime
from layergraft.training.branch import steps_left_out
from layergraft.training.cost import relative_cost
from layergraft.training.launch import Process, available_cores, launch
from layergraft.training.run_data import RunData, with_source
from layergraft.training.stage import prepare_stage
from layergraft.training.trainer import Trainer

TRIED = {"cpu": 2 * 10**11, "cuda": 2 * 10**13}  # operations that are run at most: about a second
WARM = 4  # the part of a batch that is the first step on a CPU
MOST, LONGEST = 5, 0.7  # steps whose median counts, and seconds after which no further one is begun
FEWEST = 2  # images: BatchNorm's statistics need two
SEEN = 32  # images whose features are tried
FIT = 0.008  # seconds of a classifier on few labels, and of its predictions
# What an analysis costs, in features of an image: of the images that it looks at, at most so many, and beside them.
BANKS = {"neighbours": 4000, "layer-probe": 7000, "saliency": 2000, "map": 4000}
BESIDE = {"conflict": 10_000, "rank": 8000, "supervised-gradient": 1000}
FEW = 300
WORTH = 3e12  # operations of a run, roughly, below which it is over before one could wish to know


@dataclass(frozen=True, kw_only=True)
class StageTrial:
    """What a stage costs, by a piece of it.

    Args:
        step: seconds of a step, its images included; None where it was too large to be tried.
        how: how that was found, or why not.
        look: seconds of features of all images that an online evaluation looks at, in images.
        encoders: how many encoders the stage leaves: its own, a momentum encoder, a running average.
    """

    step: float | None
    how: str
    look: int = 0
    encoders: int = 1


def try_stage(recipe: Recipe, name: str, data: RunData, batch_size: int, flops: int) -> StageTrial:
    """Run a few steps of a stage, with fresh weights, by the training loop's own step; all but the first by the clock.

    Args:
        recipe: with this stage.
        name: the stage.
        data: training and held-out images.
        batch_size: images of a step.
        flops: operations of one step.
    """
    process = Process(device=launch().device)
    device = "cuda" if process.device.type == "cuda" else "cpu"
    images = min(batch_size, int(TRIED[device] * batch_size / flops))
    if images < FEWEST:
        gflop = FEWEST * flops / batch_size / 1e9
        return StageTrial(step=None, how=f"not tried on this {device}: {FEWEST} images take {gflop:,.0f} GFLOP")
    config = recipe.stages[name]
    # Weights that take long to load, or are not there yet, would make no difference.
    plan = msgspec.structs.replace(
        config.plan, source={}, heads=msgspec.structs.replace(config.plan.heads, source="fresh")
    )
    stage = msgspec.structs.replace(config, batch_size=images, plan=plan, progressive=(), branch=None)
    piece = msgspec.structs.replace(recipe, start=None, stages={name: stage})
    encoder = create_encoder(recipe.encoder, 0)
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_stage(piece, name, Path(folder), encoder, data, process)
        trainer = Trainer(process, run)
        batch = run.loader.batch(0)
        asked = time.perf_counter()
        run.loader.batch(0)  # by one thread
        loading = (time.perf_counter() - asked) * batch_size / images
    trainer.begin()
    # The first step takes memory, and a GPU chooses kernels for its very shapes; a CPU is warm after a part of it.
    few = images if device == "cuda" else max(FEWEST, images // WARM)
    trainer.accept(trainer.compute(batch.part(0, few)))
    share = relative_cost(config, encoder)
    tried: list[float] = []
    ends = time.perf_counter() + LONGEST
    while not tried or (len(tried) < MOST and time.perf_counter() < ends):  # one alone may be disturbed
        began = _now(device)
        outcome = trainer.compute(batch)
        computed = _now(device)
        trainer.accept(outcome)
        tried.append(share * (computed - began) * batch_size / images + (_now(device) - computed))
    whole = statistics.median(tried)
    return StageTrial(
        step=_with_images(whole, loading, recipe.data.workers, device),
        how=f"from steps of {images} images on this {device}, loading included; without checkpoints",
        look=(0 if run.monitor is None else len(run.monitor.train) + len(run.monitor.holdout))
        + (0 if run.guard is None else len(run.guard.images.train) + len(run.guard.images.holdout)),
        encoders=1 + ("encoder" in run.objective.momentum_copies) + (config.ema is not None),
    )


def _with_images(computing: float, loading: float, workers: int, device: str) -> float:
    """Seconds of a step whose images are loaded by threads beside it: on a CPU they share the cores with it."""
    if not workers:
        return computing + loading
    if device == "cuda":
        return max(computing, loading / workers)
    return max(computing + loading / available_cores(), loading / workers)


def _now(device: str) -> float:
    """The time, once a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def feature_seconds(recipe: Recipe, data: RunData) -> float:
    """Seconds that the features of an image take, decoding included."""
    encoder = create_encoder(recipe.encoder, 0, data.mean, data.std)
    encoder.reads = data.train.options
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    few = data.train.subset(data.train.keys[:SEEN])
    try:
        extract_all(encoder, few.subset(few.keys[:4]), ["cls"])
        began = time.perf_counter()
        extract_all(encoder, few, ["cls"])
    except UserError:  # the first images are unreadable: whoever trains will say so
        return 0.0
    return (time.perf_counter() - began) / max(1, len(few))


def run_time(recipe: Recipe, data: RunData, trials: dict[str, StageTrial], feature: float) -> RunTime | None:
    """Seconds of a whole run, by its parts; None where a stage was too large to be tried.

    Args:
        recipe: the run's.
        data: training and held-out images.
        trials: stage -> what it costs.
        feature: seconds of an image's features.
    """
    stages: dict[str, float] = {}
    for name, config in recipe.stages.items():
        trial, per_epoch = trials[name], config.steps_per_epoch(len(data.train))
        if trial.step is None:
            return None
        steps = config.total_steps(per_epoch) - steps_left_out(with_source(recipe, data.train.spec), name, per_epoch)
        looks = 0
        if len(data.holdout):
            every = max(1, round(recipe.monitor.every * per_epoch)) if recipe.monitor.every else steps
            looks = math.ceil(steps / every) if recipe.monitor.every else 0
        stages[name] = steps * trial.step + looks * trial.look * feature
    encoders = 1 + sum(trial.encoders for trial in trials.values())
    evaluation = 0.0
    if recipe.evaluate is not None:
        evaluation = evaluation_seconds(recipe.evaluate, data, encoders, feature)
    looked_at = sum(BESIDE.get(name, FEW) + min(BANKS.get(name, 0), len(data.train)) for name in recipe.analyze)
    return RunTime(stages=stages, evaluation=evaluation, analyses=looked_at * feature)


def evaluation_seconds(config: EvaluateConfig, data: RunData, encoders: int, feature: float) -> float:
    """Seconds of the protocols on frozen features; those that train are not counted.

    Args:
        config: what is measured.
        data: training and held-out images.
        encoders: how many are measured, beside the pixels.
        feature: seconds of an image's features.
    """
    few_shot = [name for name in config.frozen_protocols if name in FEW_SHOT]
    if data.train.labels is None or not config.frozen_protocols:
        return 0.0
    test = default_test_source(data.train.spec)
    if test is None and not len(data.holdout):
        return 0.0
    tested = len(data.holdout) if test is None else len(open_source(test))
    images = len(data.train) + tested + (len(data.holdout) if config.chooses else 0)
    if config.takes_views:
        images += TASKS * min(WAYS, len(data.train.classes)) * VIEWS
    if config.keep is not None:
        images = round(images * DRAWS * config.keep)
    fits = len(few_shot) * len(config.frozen_shots) * config.splits * len(config.pooling)
    return (encoders + 0.5) * images * feature + (encoders + 1) * fits * FIT


def try_run(recipe: Recipe, data: RunData) -> tuple[dict[str, StageTrial], float]:
    """Try every stage and the features of an image: (stage -> what it costs, seconds of an image's features).

    Args:
        recipe: the run's.
        data: training and held-out images.
    """
    encoder = create_encoder(recipe.encoder, 0)
    trials = {}
    for name, stage in recipe.stages.items():
        check()
        batch_size = min(stage.batch_size, len(data.train))
        sides = [height_and_width(view.size or encoder.img_size) for view in stage.views.values()]
        views = max(1, round(sum(height * width for height, width in sides) / math.prod(encoder.input_size)))
        trials[name] = try_stage(recipe, name, data, batch_size, _rough_flops(encoder) * views * batch_size)
    return trials, feature_seconds(recipe, data)


def _rough_flops(encoder: Encoder) -> int:
    """Operations of a view forwards and backwards, all of its patches seen; counting them would take seconds."""
    return 6 * sum(parameter.numel() for parameter in encoder.parameters()) * encoder.num_patches


def worth_telling(recipe: Recipe, encoder: Encoder, images: int) -> bool:
    """Whether a run takes so long that its time is worth a trial.

    Args:
        recipe: the run's.
        encoder: of its shape.
        images: training images.
    """
    seen = 0
    for stage in recipe.stages.values():
        seen += min(stage.batch_size, images) * stage.total_steps(stage.steps_per_epoch(images))
    return _rough_flops(encoder) * seen > WORTH
