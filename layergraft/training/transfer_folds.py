"""Trained protocols without a test set: trained once for each fold of the labelled images, tested on those left out.

A fold that is done leaves one small file, its result, and no weights; it is not trained again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import numpy as np

from layergraft.config.recipe import EvaluateConfig
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import ClassifyConfig
from layergraft.data.arrays import Labels
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.cross_validation import repeated_folds, whole_files
from layergraft.evaluation.selection import Fold
from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as
from layergraft.runs.metrics import read_metrics, training_seconds
from layergraft.runs.readable import counted, duration
from layergraft.runs.results import CROSS_VALIDATION, ResultRow, features_called, summarize
from layergraft.training.loop import train_stage
from layergraft.training.signals import together
from layergraft.training.transfer import Cell, CellTraining, TrainedTask
from layergraft.training.transfer_encoder import check_projector

# Part of the training images of a fold on which one of several heads is chosen, never on those that are left out.
_CHOOSE = 0.2
_FEWEST = 5  # images of which one can be held out


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """fold.json: what one training came to.

    Args:
        hits: images that were left out and classified rightly.
        n_train: images that it was trained on.
        seconds: training and testing.
    """

    hits: int
    n_train: int
    seconds: float


def cross_validate_trained(task: TrainedTask, name: str, encoder: Encoder, start: str) -> list[ResultRow]:
    """Train every trained protocol once for each fold, and test it on the images that the fold leaves out.

    Args:
        task: images that all have a label and can be read, to train and to test; `splits` of its configuration is how
            often the folds are dealt.
        name: `encoder` of the rows.
        encoder: where every training starts; it stays as it is.
        start: the ENC that it is, where heads are taken from it.

    Returns:
        A row for each time that the folds are dealt, and their mean and deviation; only the first process has them.
    """
    task = task.read_by(encoder.reads)
    dealt = repeated_folds(_classes(task.train), task.config.splits, whole_files(task.train))
    for protocol in task.protocols:
        check_projector(getattr(task.config, protocol), start)
    rows: list[ResultRow] = []
    for protocol in task.protocols:
        alike = replace(task, config=_same_batch(task.config, protocol, dealt, task.process.world_size))
        results = _train_all(alike, name, protocol, dealt, encoder, start)
        rows += _rows(alike, name, protocol, dealt, results) if task.process.is_first else []
    return rows


def check_labels_suffice(labelled: Source, config: EvaluateConfig) -> None:
    """Refuse too few labels to choose one of several heads.

    Raises:
        UserError: a fold would leave no image to choose on.
    """
    left = len(labelled) - max(
        len(tested) for _, tested in repeated_folds(_classes(labelled), 1, whole_files(labelled))[0]
    )
    for protocol in config.trained_stages:
        if _has_grid(getattr(config, protocol)) and left < _FEWEST:
            raise UserError(
                f"{protocol} chooses one of its heads on a fifth of the labels that a fold trains on, and these are "
                f"{left}.",
                f"Label more images, or give --{protocol}.objective.grid null.",
            )


def _classes(labelled: Source) -> Labels:
    """Class of each labelled image, of shape (N,), numbered without those that no image has."""
    return np.unique(labelled.selected_labels, return_inverse=True)[1].astype(np.int64)


def _has_grid(stage: StageConfig) -> bool:
    return isinstance(stage.objective, ClassifyConfig) and stage.objective.grid is not None


def _same_batch(
    config: EvaluateConfig, protocol: str, dealt: Sequence[Sequence[Fold]], processes: int
) -> EvaluateConfig:
    """One batch size for all folds, so that they differ in their images alone."""
    stage: StageConfig = getattr(config, protocol)
    fewest = min(len(fitted) for folds in dealt for fitted, _ in folds)
    if _has_grid(stage):
        fewest -= fewest // _FEWEST
    batch = min(stage.batch_size, fewest)
    batch -= batch % processes if batch > processes else 0
    return msgspec.structs.replace(config, **{protocol: msgspec.structs.replace(stage, batch_size=batch)})


def _train_all(
    task: TrainedTask, name: str, protocol: str, dealt: Sequence[Sequence[Fold]], encoder: Encoder, start: str
) -> list[list[FoldResult]]:
    """Train, or find done, one fold after another; the results of each dealing."""
    total = sum(map(len, dealt))
    task.display.say(_how_many(len(task.train), name, protocol, dealt))
    results: list[list[FoldResult]] = []
    done, timed = 0, False
    for number, folds in enumerate(dealt):
        results.append([])
        for fold, parts in enumerate(folds):
            cell = Cell(encoder_name=name, protocol=protocol, shots="100%", split=number, fold=fold)
            began = time.perf_counter()
            result, is_new = _train_fold(_of_fold(task, cell, parts), cell, encoder, start)
            results[-1].append(result)
            done += 1
            seconds = time.perf_counter() - began
            if is_new and not timed and done < total:
                timed = True
                left = f"the {total - done} others about {duration(seconds * (total - done))}"
                task.display.say(f"Training {done} of {total} took {duration(seconds)}, {left}.")
    return results


def _how_many(images: int, name: str, protocol: str, dealt: Sequence[Sequence[Fold]]) -> str:
    """What cross-validation costs, before it begins."""
    folds = len(dealt[0])
    if folds == images:
        how = f"each of the {images} labelled images is left out once, for a class has few labels"
    else:
        times = f", dealt {counted(len(dealt), 'time')} (--splits)"
        how = f"{folds} folds of {images} labelled images{times}"
    trainings = counted(sum(map(len, dealt)), "training")
    return f"{protocol} of {name}: {trainings}: {how}. What is finished is kept if this is stopped."


def _of_fold(task: TrainedTask, cell: Cell, parts: Fold) -> TrainedTask:
    """The task whose test images are those that a fold leaves out."""
    train, test = (task.train.subset(task.train.keys[rows]) for rows in parts)
    holdout = task.holdout
    if _has_grid(getattr(task.config, cell.protocol)):
        train, holdout = split_holdout(train, _CHOOSE, seed=cell.split)
    return replace(task, train=train, holdout=holdout, test=test)


def _train_fold(task: TrainedTask, cell: Cell, encoder: Encoder, start: str) -> tuple[FoldResult, bool]:
    """(what one training comes to, whether it was done now); every process calls."""
    training = CellTraining.of(task, cell, encoder, start)
    file = training.out / "fold.json"
    if file.is_file():
        with together():
            if task.process.is_first:  # a kill may have come before this
                shutil.rmtree(training.out / "stages", ignore_errors=True)
        return read_json_as(file, FoldResult), False
    stage = training.prepare(cell, task.process)
    with together():
        if task.process.is_first:
            training.note()
    train_stage(task.process, stage, task.display.report, task.display.say)
    result = FoldResult(hits=0, n_train=len(stage.loader.source), seconds=0.0)
    with together():
        if task.process.is_first:
            began = time.perf_counter()
            stage.encoder.eval(), stage.objective.eval()
            share = stage.objective.measure(stage.encoder, task.test)["top1"] / 100
            trained = training_seconds(read_metrics(stage.directory / "metrics.jsonl"), stage.config.batch_size)
            result = replace(result, hits=round(share * len(task.test)), seconds=trained + time.perf_counter() - began)
            write_text(file, json.dumps(asdict(result)) + "\n")
            shutil.rmtree(training.out / "stages")  # weights of every fold would fill a disk
    return result, True


def _rows(
    task: TrainedTask,
    name: str,
    protocol: str,
    dealt: Sequence[Sequence[Fold]],
    results: Sequence[Sequence[FoldResult]],
) -> list[ResultRow]:
    """A row for each dealing, and their mean and deviation."""
    stage: StageConfig = getattr(task.config, protocol)
    assert isinstance(stage.objective, ClassifyConfig)
    how: dict[str, Any] = {"folds": len(dealt[0]), "dealt": len(dealt)}
    if _has_grid(stage):
        how["head_by"] = "a fifth of the training images of each fold"
    rows = [
        ResultRow(
            encoder=name,
            source=task.train.spec,
            test=CROSS_VALIDATION,
            protocol=protocol,
            variant=None,
            shots="100%",
            split=str(number),
            pooling=features_called(stage.objective.pooling, stage.objective.block),
            metric="top1",
            value=100 * sum(result.hits for result in part) / len(task.train),
            n_train=part[0].n_train,
            n_test=len(task.train),
            chosen=how,
            seconds=sum(result.seconds for result in part),
            seed=task.seed,
        ).with_interval()
        for number, part in enumerate(results)
    ]
    return rows + summarize(rows)
