"""What the loop costs beside the bare step: logging, guards and checkpoints, measured in turn with it."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from layergraft.config.loading import load_recipe
from layergraft.data.batch import Batch, Normalize
from layergraft.data.loader import TrainLoader
from layergraft.graft.apply import stage_rows
from layergraft.graft.donors import first_encoder
from layergraft.graft.optimizer_groups import parameter_groups
from layergraft.objectives.base import Progress
from layergraft.training.checkpoints import Checkpoints
from layergraft.training.launch import launch
from layergraft.training.loop import train_stage
from layergraft.training.optim import build_optimizer, lr_factor
from layergraft.training.run_data import load_data
from layergraft.training.stage import StageRun, prepare_stage
from layergraft.training.trainer import Trainer

WINDOW = 10


class _Bare:
    """The same step with nothing around it, on copies of the stage's modules."""

    def __init__(self, stage: StageRun) -> None:
        self.encoder, self.objective = copy.deepcopy(stage.encoder).train(), copy.deepcopy(stage.objective).train()
        groups = parameter_groups(stage_rows(self.encoder, self.objective), stage.plan)
        self.optimizer = build_optimizer(stage.config.optimizer, groups)
        self.normalize = Normalize(mean=stage.encoder.mean, std=stage.encoder.std)

    def __call__(self, raw: Batch, progress: Progress) -> None:
        batch = raw.prepared(lambda pixels: pixels, self.normalize)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor(progress.step, progress.steps, 0)
        self.objective.before_step(self.encoder, progress)
        losses, pending = self.objective.losses(self.objective.encode(self.encoder, batch), progress)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.objective.after_step(pending)
        self.optimizer.zero_grad(set_to_none=True)


class _Enough(Exception):
    """The time is over."""


class _InTurn(TrainLoader):
    """A loader that makes a bare step beside each step of the loop, before it and after it in turn, and times both."""

    def __init__(self, loader: TrainLoader, bare: _Bare, seconds: float) -> None:
        self.__dict__.update(loader.__dict__)
        self.bare, self.seconds = bare, seconds
        self.loop_times: list[float] = []
        self.bare_times: list[float] = []

    def _bare_step(self, batch: Batch, start: int, stop: int) -> None:
        began = time.perf_counter()
        self.bare(batch, Progress(step=start, steps=stop))
        self.bare_times.append(time.perf_counter() - began)

    def batches(self, start: int, stop: int, skipped: int = 0) -> Generator[Batch, None, None]:
        inner, end = super().batches(start, stop, skipped), time.monotonic() + self.seconds
        while time.monotonic() < end or len(self.loop_times) < 4 * WINDOW:
            before = len(self.loop_times) % 2 == 0
            if before:
                self._bare_step(next(inner), start, stop)
            batch = next(inner)
            began = time.perf_counter()
            yield batch
            self.loop_times.append(time.perf_counter() - began)
            if not before:
                self._bare_step(next(inner), start, stop)
        raise _Enough


def _stage(name: str, out: Path, changes: dict[str, Any]) -> StageRun:
    quick = {"monitor.every": 0, "engine.checkpoint_minutes": 1, f"stages.{name}.epochs": 1000}
    recipe = load_recipe("fashion_paper", quick | changes)
    recipe = msgspec.structs.replace(recipe, stages={name: recipe.stages[name]})
    data = load_data(recipe)
    return prepare_stage(recipe, name, out, first_encoder(recipe, data.mean, data.std), data)


def bench_loop(stage: str, seconds: float, quiet: bool) -> dict[str, Any]:
    """Train a stage of `fashion_paper` with logging, guards and a checkpoint a minute; see `layergraft.bench`.

    Args:
        stage: `mae` or `graft`.
        seconds: how long, of which half is for the bare step.
        quiet: print nothing but the JSON object.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = _stage(stage, Path(folder), {})
        turns = _InTurn(run.loader, _Bare(run), seconds)
        run.loader = turns
        with suppress(_Enough):
            train_stage(launch(), run, lambda row, steps: None, lambda text: None)
    # Sums over windows, so that what happens every few steps counts; the first window warms up.
    count = len(turns.loop_times) // WINDOW * WINDOW
    loop, bare = (np.array(t[:count]).reshape(-1, WINDOW).sum(1)[1:] for t in (turns.loop_times, turns.bare_times))
    per_step = float(np.median(bare)) / WINDOW
    figures = {
        "images_per_second": run.config.batch_size / (float(np.median(loop)) / WINDOW),
        "bare_images_per_second": run.config.batch_size / per_step,
        "overhead": float(np.median(loop / bare)) - 1,
        "steps": count,
    }
    if not quiet:
        Console(stderr=True).print(
            f"Stage {stage} of fashion_paper: the loop adds {100 * figures['overhead']:.1f} % to a step of "
            f"{1000 * per_step:.1f} ms (median of {len(loop)} windows of {WINDOW} steps, in turn)."
        )
    print(json.dumps(figures))
    return figures


def bench_checkpoint(encoder: str, img_size: int, quiet: bool) -> dict[str, Any]:
    """How long the training thread waits for a checkpoint of MoCo v3, and how long the writing takes beside it.

    Args:
        encoder: timm's model name.
        img_size: side of the images.
        quiet: print nothing but the JSON object.
    """
    shape: dict[str, Any] = {"name": encoder, "img_size": img_size, "in_chans": 1}
    heads = {"stages.graft.objective.projector": [4096, 4096, 256], "stages.graft.objective.predictor": [4096, 256]}
    with tempfile.TemporaryDirectory() as folder:
        run = _stage("graft", Path(folder), {"encoder": shape, "stages.graft.batch_size": 8} | heads)
        trainer = Trainer(launch(), run)
        trainer.begin()
        trainer.accept(trainer.compute(next(trainer.batches())))
        waits, writes = [], []
        with Checkpoints(Path(folder) / "checkpoints", run.engine, lambda text: None) as checkpoints:
            for _ in range(3):
                began = time.perf_counter()
                checkpoints.save(trainer.state())
                waits.append(time.perf_counter() - began)
                checkpoints.wait()
                writes.append(time.perf_counter() - began)
            newest = checkpoints.newest()
        assert newest is not None
        size = newest[0].stat().st_size
    figures = {
        "bytes": size,
        "wait_seconds": float(np.median(waits)),
        "write_seconds": float(np.median(writes)),
        "wait_fraction": float(np.median(waits)) / 60,
    }
    if not quiet:
        Console(stderr=True).print(
            f"A checkpoint of {size / 1e9:.2f} GB: training waits {figures['wait_seconds']:.2f} s, "
            f"{100 * figures['wait_fraction']:.1f} % with one a minute; it is on the disk after "
            f"{figures['write_seconds']:.1f} s."
        )
    print(json.dumps(figures))
    return figures
