"""Protocols that train: a stage of the ordinary loop, in a directory of its own below the results, then its test.

So they have the loop's plans, signals, exact resume and several processes. The last epoch is what is reported; the row
of variant `best_epoch` beside it is the epoch that was best on held-out images. Test images choose nothing.
"""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from layergraft.config.data import DataConfig
from layergraft.config.loading import dump_recipe
from layergraft.config.recipe import EngineConfig, EvaluateConfig, Recipe
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import ClassifyConfig
from layergraft.data.decode import ReadOptions
from layergraft.data.reading import read_as_trained
from layergraft.data.sources.source import Source
from layergraft.encoders.adapt import resize_encoder
from layergraft.encoders.distributed import is_distributed
from layergraft.encoders.identity import encoder_identity
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.contents import results_identity
from layergraft.evaluation.labels import few_images, same_classes
from layergraft.evaluation.task import Task
from layergraft.objectives.classify import Classify
from layergraft.objectives.create import know_classes
from layergraft.runs.atomic import write_text
from layergraft.runs.layout import is_done, stage_directory
from layergraft.runs.metrics import read_metrics, training_seconds
from layergraft.runs.result_tables import group_by_images, measured
from layergraft.runs.results import ResultRow, features_called, summarize
from layergraft.training.best_epoch import load_best
from layergraft.training.display import Display
from layergraft.training.launch import Process
from layergraft.training.loop import train_stage
from layergraft.training.precision import settle_precision
from layergraft.training.rendezvous import tell_all
from layergraft.training.run_data import RunData
from layergraft.training.signals import together
from layergraft.training.stage import StageRun, prepare_stage
from layergraft.training.stage_files import restore_stage, save_stage
from layergraft.training.step_log import advice_evaluating
from layergraft.training.transfer_encoder import check_projector, encoder_config, grown

BEST_EPOCH = "best_epoch"
# Field of EvaluateConfig -> variant of protocol `segment`.
SEGMENTS = {"segment": "linear", "upernet": "upernet"}


@dataclass(frozen=True, kw_only=True)
class TrainedTask:
    """Images, and how the trained protocols of one evaluation are carried out.

    Args:
        train: images with labels or masks, without the held-out ones.
        holdout: where heads and epochs are chosen.
        test: what is reported; its classes are those of `train`, in the same order.
        test_name: `test` of the result rows.
        seed: of all random numbers.
        config: stages of the protocols.
        protocols: its fields that are carried out.
        engine: how they are trained.
        out: directory of the results; stages go to `out/trained`.
        process: launched; every process calls.
        display: for the user.
        contents: identity of the images as they are now, which what was trained on them belongs to.
    """

    train: Source
    holdout: Source
    test: Source
    test_name: str
    seed: int
    config: EvaluateConfig
    protocols: Sequence[str]
    engine: EngineConfig
    out: Path
    process: Process
    display: Display
    contents: str = ""

    def read_by(self, options: ReadOptions) -> TrainedTask:
        """The same task with images read as an encoder was trained, and told from others under the same names."""
        train, holdout, test = (read_as_trained(part, options) for part in (self.train, self.holdout, self.test))
        with together():
            contents = " ".join(map(results_identity, (train, holdout)))
        if is_distributed():  # which directory a cell has, all must find alike
            contents = tell_all(contents)[0]
        return replace(self, train=train, holdout=holdout, test=test, contents=contents)

    @classmethod
    def of(
        cls,
        task: Task,
        config: EvaluateConfig,
        protocols: Sequence[str],
        engine: EngineConfig,
        out: Path,
        process: Process,
        display: Display,
    ) -> TrainedTask:
        """Take images and seed from the task of the frozen protocols; the rest is as in the class."""
        return cls(
            train=task.train,
            holdout=task.train.subset(task.train.keys[:0]) if task.holdout is None else task.holdout,
            test=same_classes(task.train, task.test),
            test_name=task.test_name,
            seed=task.seed,
            config=config,
            protocols=protocols,
            engine=settle_precision(engine, process.device),
            out=out,
            process=process,
            display=display,
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a trained protocol: a cell of the table encoders x protocols x shots x splits.

    Args:
        encoder_name: `encoder` of the rows.
        protocol: a field of EvaluateConfig that holds a stage.
        shots: images per class, or a percentage.
        split: which random choice of so many, or which dealing of folds.
        fold: which fold of it is left out; None where there are test images.
    """

    encoder_name: str
    protocol: str
    shots: int | str
    split: int
    fold: int | None = None

    def directory_name(self, settings: tuple[object, ...]) -> str:
        """Of its training below `trained/`; other settings, which decide what is learned, give another."""
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=4).hexdigest()
        words = f"{Path(self.encoder_name).name}-{self.shots}-{self.split}"
        if self.fold is not None:
            words += f"-fold-{self.fold}"
        return f"{self.protocol}-{re.sub(r'[^A-Za-z0-9]+', '-', words).strip('-')}-{digest}"

    def __str__(self) -> str:
        return f"{self.protocol} of {self.encoder_name}, {self.shots} of the labels, split {self.split}"


@dataclass(frozen=True, kw_only=True)
class CellTraining:
    """What a cell is trained from, and where.

    Args:
        recipe: of one stage.
        encoder: where it starts.
        data: images that train, and those that heads and epochs are chosen on.
        out: its directory.
    """

    recipe: Recipe
    encoder: Encoder
    data: RunData
    out: Path

    @classmethod
    def of(cls, task: TrainedTask, cell: Cell, encoder: Encoder, start: str | None) -> CellTraining:
        """Settle everything that decides what is learned, which the directory is named by.

        Args:
            task: images, protocols, and where stages go.
            cell: what is trained.
            encoder: where it starts; it stays as it is.
            start: the ENC that it is, where heads are taken from it.
        """
        config: StageConfig = getattr(task.config, cell.protocol)
        train = few_images(task.train, cell.shots, cell.split)
        size = config.views["image"].size or encoder.img_size
        resized = resize_encoder(copy.deepcopy(encoder), size, cell.encoder_name, task.display.say)
        trained = grown(resized, config.plan).train()
        trained.reads = train.options
        takes_heads = isinstance(config.objective, ClassifyConfig) and config.objective.projector is not None
        recipe = Recipe(
            seed=task.seed,
            encoder=encoder_config(trained),
            start=start if takes_heads else None,
            data=DataConfig(source=train.spec),
            stages={cell.protocol: config},
            evaluate=None,
            engine=task.engine,
        )
        settings: tuple[object, ...] = (
            dump_recipe(recipe),
            encoder_identity(encoder),
            task.contents,
            *(part.identity for part in (train, task.holdout)),
        )
        if cell.fold is not None:  # of a fold the result is kept, not what was trained
            settings += (task.test.identity,)
        out = task.out / "trained" / cell.directory_name((*settings, cell.shots, cell.split))
        data = RunData(train=train, holdout=task.holdout, mean=trained.mean, std=trained.std)
        return cls(recipe=recipe, encoder=trained, data=data, out=out)

    def prepare(self, cell: Cell, process: Process) -> StageRun:
        """The stage with the weights that it starts from."""
        return prepare_stage(self.recipe, cell.protocol, self.out, self.encoder, self.data, process)

    def note(self) -> None:
        """Write the recipe beside what is trained by it."""
        write_text(self.out / "recipe.yaml", dump_recipe(self.recipe))


def evaluate_trained(task: TrainedTask, name: str, encoder: Encoder, start: str | None = None) -> list[ResultRow]:
    """Train and test every trained protocol that was asked for on one encoder.

    Args:
        task: images, protocols, and where stages go.
        name: `encoder` of the rows.
        encoder: where every stage starts; it stays as it is.
        start: the ENC that it is, where heads are taken from it.

    Returns:
        Rows for results.json, equal on all processes but for the times; only the first process has figures.
    """
    rows: list[ResultRow] = []
    task = task.read_by(encoder.reads)
    stages: dict[str, StageConfig] = {field: getattr(task.config, field) for field in task.protocols}
    for protocol, stage in stages.items():  # what would stop a later one stops before the first
        if start is not None:
            check_projector(stage, start)
        known = know_classes(stage.objective, task.train, protocol)
        for part in (task.holdout, task.test):
            know_classes(known, part, protocol)
        for shots in task.config.trained_shots:
            few_images(task.train, shots, 0)
    for protocol in stages:
        for shots in task.config.trained_shots:
            splits = 1 if shots == "100%" else task.config.splits
            cells = [Cell(encoder_name=name, protocol=protocol, shots=shots, split=split) for split in range(splits)]
            rows_of_splits = [_evaluate_cell(task, cell, encoder, start) for cell in cells]
            for split_rows in rows_of_splits:
                rows += split_rows
            if splits > 1:
                for same_measurement in zip(*rows_of_splits, strict=True):
                    rows += summarize(list(same_measurement))
    return rows


def _evaluate_cell(task: TrainedTask, cell: Cell, encoder: Encoder, start: str | None) -> list[ResultRow]:
    """Train, or go on, or find done; then test the last and the best epoch."""
    stage = _train_or_restore(task, cell, encoder, start)
    rows = []
    with together():
        if task.process.is_first:
            rows = _evaluate_epochs(task, cell, stage)
    return rows


def _train_or_restore(task: TrainedTask, cell: Cell, encoder: Encoder, start: str | None) -> StageRun:
    """The stage of a cell, trained to its end: now, from where it stopped, or before."""
    training = CellTraining.of(task, cell, encoder, start)
    directory = stage_directory(training.out, training.recipe, cell.protocol)
    done = is_done(directory)
    stage = training.prepare(cell, task.process)
    task.display.say(f"{cell}: {'done before' if done else directory}")
    if done:
        restore_stage(stage)
        return stage
    with together():
        if task.process.is_first:
            training.note()
    display = task.display
    train_stage(
        task.process, stage, display.report, display.say, hint=lambda loader: display.once(advice_evaluating(loader))
    )
    with together():
        if task.process.is_first:
            save_stage(stage, {"encoder": cell.encoder_name, "stage": cell.protocol, "step": stage.steps})
    return stage


def _evaluate_epochs(task: TrainedTask, cell: Cell, stage: StageRun) -> list[ResultRow]:
    """Test the last epoch, and the one that was best on held-out images where there are any."""
    metrics = read_metrics(stage.directory / "metrics.jsonl")
    seconds = training_seconds(metrics, stage.config.batch_size)
    metric = stage.objective.selection_metric
    assert metric is not None
    last: dict[str, Any] = {"epoch": stage.epochs}
    if metrics and metric in metrics[-1]:
        last[metric] = metrics[-1][metric]
    rows = _evaluate_epoch(task, cell, stage, None, last, seconds)
    best = load_best(stage.encoder, stage.objective, stage.directory)
    if best is not None:
        step, value = best
        chosen = {"epoch": step / stage.loader.steps_per_epoch, metric: value, "by": "held-out images"}
        rows += _evaluate_epoch(task, cell, stage, BEST_EPOCH, chosen, seconds)
    return rows


def _evaluate_epoch(
    task: TrainedTask, cell: Cell, stage: StageRun, epoch: str | None, chosen: dict[str, Any], seconds: float
) -> list[ResultRow]:
    """Test the weights that a stage has now.

    Args:
        task: the test images.
        cell: what was trained.
        stage: it.
        epoch: BEST_EPOCH, or None for the last.
        chosen: of the rows.
        seconds: how long the training took.
    """
    began = time.perf_counter()
    stage.encoder.eval(), stage.objective.eval()
    values = stage.objective.measure(stage.encoder, task.test)
    objective = stage.objective
    pooling = None
    protocol, variant = cell.protocol, epoch
    if cell.protocol in SEGMENTS:
        protocol, head = "segment", SEGMENTS[cell.protocol]
        variant = head if epoch is None else f"{head}/{epoch}"
    if isinstance(objective, Classify):
        pooling = features_called(objective.config.pooling, objective.config.block)
        if objective.config.grid is not None:
            row = stage.plan[f"heads.{objective.chosen}"]
            chosen = chosen | {"head": objective.chosen, "lr": row.lr, "weight_decay": row.weight_decay}
    return [
        ResultRow(
            encoder=cell.encoder_name,
            source=task.train.spec,
            test=task.test_name,
            protocol=protocol,
            variant=variant,
            shots=str(cell.shots),
            split=str(cell.split),
            pooling=pooling,
            metric=metric,
            value=value,
            n_train=len(stage.loader.source),
            n_test=len(task.test),
            chosen=chosen | {"stage": stage.directory.parent.parent.name},
            seconds=seconds + time.perf_counter() - began,
            seed=task.seed,
        ).with_interval()
        for metric, value in values.items()
    ]


def show_trained(rows: list[ResultRow]) -> None:
    """The closing table of the trained protocols."""
    table = Table(title="Trained protocols, percent: mean ± standard deviation over splits (95 % interval)")
    for column in ("encoder", "protocol", "epoch", "labels", "metric"):
        table.add_column(column)
    table.add_column("value", justify="right")
    console = Console(stderr=True)
    groups = group_by_images([(row.encoder, row) for row in rows])
    for measurement in chain.from_iterable(measured(group.results) for group in groups):
        row = measurement.row
        epoch = "best held-out" if row.variant and row.variant.endswith(BEST_EPOCH) else "last"
        head = (row.variant or "").removesuffix(BEST_EPOCH).removesuffix("/")
        table.add_row(row.encoder, f"{row.protocol} {head}", epoch, row.shots, row.metric, measurement.text)
    console.print(table)
    for group in groups:
        console.print(f"{group.caption}. {group.warning}", highlight=False)
