"""`layergraft evaluate`: any encoder on any labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from layergraft.config.data import HoldoutBy
from layergraft.config.loading import load_evaluate, parse_value, read_run_recipe
from layergraft.config.paths import expanded
from layergraft.config.recipe import EngineConfig, EvaluateConfig, Recipe
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import differences, read_alike, read_as_trained, settle
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.sources.source import AS_THEY_ARE, Source
from layergraft.encoders.checkpoint import check_expressible, load_encoder
from layergraft.encoders.products import choice_here, products_of_run
from layergraft.encoders.provenance import are_the_runs, lie_where_the_runs_did
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.cross_validated import check_cross_validation, cross_validate, readable_part
from layergraft.evaluation.features import check_block
from layergraft.evaluation.frozen import Keep, evaluate_encoders
from layergraft.evaluation.head import evaluate_head
from layergraft.evaluation.splits import read_splits
from layergraft.evaluation.task import Task
from layergraft.runs.announce import announce
from layergraft.runs.interruption import check
from layergraft.runs.layout import encoder_directory, encoder_name, run_directory
from layergraft.runs.lock import locked
from layergraft.runs.readable import counted
from layergraft.runs.report.model_card import write_model_card
from layergraft.runs.report.page import write_report
from layergraft.runs.result_tables import group_by_images, measured, show_results
from layergraft.runs.results import CROSS_VALIDATION, ResultRow, Results, write_results
from layergraft.training.display import Display
from layergraft.training.launch import Process, launch
from layergraft.training.signals import losses_named, together
from layergraft.training.transfer import TrainedTask, evaluate_trained, show_trained
from layergraft.training.transfer_folds import check_labels_suffice, cross_validate_trained

# Fraction of the labelled images on which penalties, heads and epochs are chosen.
HOLDOUT = 0.1
HELD_OUT = "holdout"


@losses_named(lambda: "what was measured before")
def evaluate_command(**options: Any) -> Results:
    """Measure encoders and the pixels, with the options of `_prepare`; see `layergraft.evaluate`."""
    process = launch()
    with together():
        measure = _prepare(process.device, **options)
    return measure(process)


def _prepare(
    device: torch.device,
    *,
    encoder: str,
    against: list[str],
    data: str,
    labels: str | None,
    test: str | None,
    changes: dict[str, Any],
    splits: int | list[str],
    holdout: float | None,
    out: Path | None,
    overrides: Mapping[str, Any],
) -> Callable[[Process], Results]:
    """Open what is measured and what it is measured on, which may fail in one process alone."""
    settings = {key: value for key, value in changes.items() if value is not None}
    count, files = _count(splits)
    if files and "shots" in settings:
        raise UserError(
            "Both --shots and lists of labelled images are given.", "The lists say how many shots there are."
        )
    if "shots" in settings:
        settings["shots"] = [parse_value(str(shots)) for shots in settings["shots"]]
    config, engine = load_evaluate(settings | {"splits": count}, overrides)
    recipe = _recipe_of(encoder)
    if recipe is not None and "engine.products" not in overrides and not engine.compile:
        # Its features to the last bit.
        engine = msgspec.structs.replace(engine, products=choice_here(recipe.engine.products, device))
    path = expanded(encoder.partition("?")[0])
    if out is None and encoder_directory(path) is not None:
        out = _run_of(encoder) or path
    addresses = {encoder_name(enc, out) if out else enc: enc for enc in [encoder, *against]}
    encoders = {name: load_encoder(enc) for name, enc in addresses.items()}
    for name, loaded in encoders.items():
        check_block(config.block, loaded, repr(name))
    source = _settled(open_source(data), encoders)
    spec = test or default_test_source(source.spec)
    if labels is not None:
        source = read_labels(labels, source).labelled
        _check_labels_for(test, bool(files) or "shots" in settings)
    _check_trainable(config, encoder, encoders, out)
    if labels is not None and test is None:
        return partial(_cross_validate, source, config, engine, addresses, encoders, out)
    if spec is None:
        raise UserError(
            f"{data!r} has no test images beside it.",
            f"Give them with --test, or --test {HELD_OUT}: images of {data!r} that trained nothing. Or give labels of "
            "some images with --labels FILE, which are cross-validated.",
        )
    run = recipe if recipe is not None and are_the_runs(source, encoder, recipe) else None
    if run is None and recipe is not None and spec == HELD_OUT and lie_where_the_runs_did(source, recipe):
        raise UserError(
            f"The images of {data!r} are not those that {encoder!r} was trained on: files came or went.",
            "Restore them, so that its held-out images can be told from the others, or give other ones with --test.",
        )
    task = _task(source, spec, config, files, holdout, run)
    return partial(_measure, task, config, engine, addresses, encoders, out)


def _check_trainable(config: EvaluateConfig, encoder: str, encoders: Mapping[str, Encoder], out: Path | None) -> None:
    """Refuse to train where there is no directory, or from what cannot be saved."""
    if config.trained_stages and out is None:
        raise UserError(
            f"{', '.join(config.trained_stages)} of {encoder!r} need a directory to train in.", "Give --out DIR."
        )
    for loaded in encoders.values() if config.trained_stages else ():
        check_expressible(loaded)  # all of them, before the first one is trained


def _settled(source: Source, encoders: Mapping[str, Encoder]) -> Source:
    """A source read as the encoders were trained, if all were trained alike; else each one reads it in its own way."""
    first_name, first = next(iter(encoders.items()))
    alike = all(encoder.reads == first.reads for encoder in encoders.values())
    source = settle(source, first.in_chans, announce, first.reads if alike else AS_THEY_ARE, repr(first_name))
    for name, encoder in {} if alike else encoders.items():
        announce(*differences(source, encoder.reads, repr(name)))
    if not alike:
        announce(f"The pixels beside them are read as {first_name!r} was trained.")
    read = read_as_trained(source, first.reads)
    announce(*source.remarks, *remarks_on_files(look_at(read, first.in_chans), read))
    return source


def _measure(
    task: Task,
    config: EvaluateConfig,
    engine: EngineConfig,
    addresses: Mapping[str, str],
    encoders: Mapping[str, Encoder],
    out: Path | None,
    process: Process,
) -> Results:
    """Carry out all protocols while no other process writes to `out`; see `_measure_all`."""
    with ExitStack() as stack:
        with together():
            if out is not None and process.is_first:
                stack.enter_context(locked(out, announce))
        return _measure_all(task, config, engine, addresses, encoders, out, process)


def _measure_all(
    task: Task,
    config: EvaluateConfig,
    engine: EngineConfig,
    addresses: Mapping[str, str],
    encoders: Mapping[str, Encoder],
    out: Path | None,
    process: Process,
) -> Results:
    """Carry out all protocols; rows are kept in `out` as they come.

    Args:
        task: labels, and what is classified.
        config: protocols, shots, splits, poolings.
        engine: how the trained protocols are trained, and what multiplies matrices.
        addresses: `encoder` of the rows -> ENC.
        encoders: `encoder` of the rows -> encoder.
        out: directory of the results, or None.
        process: launched.
    """
    rows: list[ResultRow] = []

    def keep(part: list[ResultRow]) -> None:
        if out is not None and process.is_first:
            write_results(out / "results.json", part)

    with together():
        if config.frozen_protocols and process.is_first:
            with products_of_run(engine.products, next(iter(encoders.values())).device)():
                rows = evaluate_encoders(task, config, encoders, out, keep, look_for_leak=True)
            show_results(rows)
        if "head" in config.protocols and process.is_first:
            rows += _evaluate_heads(task, addresses, keep)
    if config.trained_stages and out is not None:
        for name, loaded in encoders.items():
            trained = _train(task, config, engine, process, name, addresses[name], loaded, out)
            with together():
                keep(trained)
            rows += trained
    with together():
        if process.is_first:
            _write_pages(out)
    return Results.of(rows)


def _evaluate_heads(task: Task, addresses: Mapping[str, str], keep: Keep) -> list[ResultRow]:
    """The classifiers that came with the encoders, as they are."""
    rows = []
    for name, enc in addresses.items():
        check()
        rows.append(evaluate_head(enc, name, task))
        keep(rows[-1:])
        (group,) = group_by_images([(name, rows[-1])])
        announce(
            f"{name}: {measured(group.results)[0].text} % top-1 (95 % interval) with its own head, on "
            f"{counted(rows[-1].n_test, 'image')} of {task.test_name}. {group.warning}".rstrip()
        )
    return rows


def _write_pages(out: Path | None) -> None:
    """The report and the model card, where the results are a run's."""
    if out is not None and (out / "recipe.yaml").is_file():
        write_report([out])
        if (out / "encoder").is_dir():
            write_model_card(out, out / "encoder")


def _check_labels_for(test: str | None, few: bool) -> None:
    """Refuse what labels of some images cannot be combined with.

    Args:
        test: the test images; None cross-validates.
        few: whether it is said which labels, or how many, are used.
    """
    if test is None and few:
        raise UserError(
            "Without --test all labels are cross-validated, so --shots and lists of images say nothing.",
            "Leave them out, or give --test.",
        )
    if test == HELD_OUT:
        raise UserError(
            f"--test {HELD_OUT} is for sources that are labelled throughout.",
            "Leave --test out: every labelled image is classified by classifiers of the others.",
        )


def _cross_validate(
    labelled: Source,
    config: EvaluateConfig,
    engine: EngineConfig,
    addresses: Mapping[str, str],
    encoders: Mapping[str, Encoder],
    out: Path | None,
    process: Process,
) -> Results:
    """Measure on the labelled images themselves; every process trains, and the first does all else."""
    rows: list[ResultRow] = []

    def keep(part: list[ResultRow]) -> None:
        rows.extend(part)
        if out is not None:
            write_results(out / "results.json", part)

    with ExitStack() as stack:
        with together():
            check_cross_validation(labelled, config)
            if config.trained_stages:
                labelled = readable_part(labelled, next(iter(encoders.values())))
                check_labels_suffice(labelled, config)
            if process.is_first:
                if out is not None:
                    stack.enter_context(locked(out, announce))
                if config.frozen_protocols:
                    with products_of_run(engine.products, next(iter(encoders.values())).device)():
                        cross_validate(labelled, config, encoders, out, keep)
                    show_results(rows)
                if "head" in config.protocols:  # which the labelled images are no more than test images for
                    task = Task(train=labelled, test=labelled, test_name=labelled.spec, seed=0)
                    _evaluate_heads(task, addresses, keep)
        if config.trained_stages and out is not None:
            task = Task(train=labelled, test=labelled, test_name=CROSS_VALIDATION, seed=0)
            for name, loaded in encoders.items():
                with Display(quiet=not process.is_first) as display:
                    of = TrainedTask.of(task, config, config.trained_stages, engine, out, process, display)
                    trained = cross_validate_trained(of, name, loaded, addresses[name])
                with together():
                    if process.is_first:
                        keep(trained)
                        show_trained(trained)
        with together():
            if process.is_first:
                _write_pages(out)
    return Results.of(rows)


def _count(splits: int | list[str]) -> tuple[int, list[str]]:
    """(number of random splits, lists of labelled images): `5`, `["5"]`, `["1percent.txt"]`."""
    words = [str(splits)] if isinstance(splits, int) else list(splits)
    if len(words) == 1 and words[0].isdecimal():
        if not (len(words[0]) < 10 and int(words[0]) >= 1):
            raise UserError(f"--splits is {words[0][:20]}.", "Give the number of splits, --splits 5, or files.")
        return int(words[0]), []
    return 1, words


def _run_of(encoder: str) -> Path | None:
    run = run_directory(encoder)
    return run[0] if run else None


def _recipe_of(encoder: str) -> Recipe | None:
    run = _run_of(encoder)
    return read_run_recipe(run) if run else None


def _task(
    source: Source,
    test_name: str,
    config: EvaluateConfig,
    files: list[str],
    holdout: float | None,
    run: Recipe | None,
) -> Task:
    """Labels, held-out images and test images, which with `holdout` are the held-out ones.

    The held-out images are those of `run`, where `source` is what a run was trained on. Otherwise none are, unless
    something is to be chosen on them. Images of a given list are labelled, never held out.
    """
    needing = [name for name in config.protocols if source.masks is None or name != "segment"]
    if source.labels is None and needing:
        raise UserError(
            f"The {len(source)} images of {source.spec!r} have no labels, which {', '.join(needing)} need.",
            source.label_hint,
        )
    seed = 0
    by: HoldoutBy = "proportion"
    if run is not None:
        seed, share, by = run.seed, run.data.holdout, run.data.holdout_by
    else:
        share = HOLDOUT if config.chooses or config.trained_stages or test_name == HELD_OUT else 0
    train, held = split_holdout(source, share if holdout is None else holdout, seed, by)
    splits = None
    if files:
        listed = {int(key) for split in read_splits(files, source) for key in source.keys[split.rows]}
        held = held.subset(np.array([key for key in held.keys if int(key) not in listed], dtype=np.int64))
        train = source.subset(np.setdiff1d(source.keys, held.keys))
        splits = tuple(read_splits(files, train))
    if test_name == HELD_OUT:
        if config.chooses or config.trained_stages:
            raise UserError(
                "Something is to be chosen on the held-out images, which cannot be the test images then.",
                "Give other images with --test, or leave out what chooses.",
            )
        if not len(held):
            raise UserError(f"No image of {source.spec!r} is held out.", "Say how many with --holdout 0.1.")
        announce(f"{len(train)} labelled images of {source.spec}; tested on {len(held)} held-out ones.")
        return replace(Task.on_holdout(train, held, seed), splits=splits)
    test = read_alike(open_source(test_name), source)
    announce(*test.remarks)
    announce(
        f"{len(train)} labelled images of {source.spec}, {len(held)} more held out; "
        f"tested on {counted(len(test), 'image')} of {test_name}."
    )
    return Task(
        train=train,
        test=test,
        test_name=test_name,
        seed=seed,
        holdout=held if len(held) else None,
        splits=splits,
    )


def _train(
    task: Task,
    config: EvaluateConfig,
    engine: EngineConfig,
    process: Process,
    name: str,
    start: str,
    encoder: Encoder,
    out: Path,
) -> list[ResultRow]:
    """Carry out the trained protocols on the ENC `start`; every process calls."""
    with Display(quiet=not process.is_first) as display:
        trained = TrainedTask.of(task, config, config.trained_stages, engine, out, process, display)
        rows = evaluate_trained(trained, name, encoder, start=start)
    if process.is_first:
        show_trained(rows)
    return rows
