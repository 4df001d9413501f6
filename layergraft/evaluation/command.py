"""`layergraft evaluate`: any encoder on any labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from layergraft.checkpoints.encoder import encoder_directory, load_encoder
from layergraft.config.loading import load_evaluate, parse_value
from layergraft.config.recipe import EngineConfig, EvaluateConfig
from layergraft.data.sources import default_test_source, open_source, split_holdout
from layergraft.errors import UserError
from layergraft.evaluation.evaluate import Task, evaluate_encoders
from layergraft.evaluation.labels import same_classes
from layergraft.evaluation.results import ResultRow, show_results, write_results
from layergraft.evaluation.trained import TrainedTask, evaluate_trained, show_trained
from layergraft.models.vit import Encoder
from layergraft.training.display import Display
from layergraft.training.launch import launch

# Fraction of the labelled images on which heads and epochs are chosen.
HOLDOUT = 0.1


def evaluate_command(
    *,
    encoder: str,
    data: str,
    test: str | None,
    changes: dict[str, Any],
    out: Path | None,
    overrides: Mapping[str, Any],
) -> list[ResultRow]:
    """Measure one encoder and the pixels; see `layergraft.evaluate`."""
    given = {key: value for key, value in changes.items() if value is not None}
    if "shots" in given:
        given["shots"] = [parse_value(str(shots)) for shots in given["shots"]]
    config, engine = load_evaluate(given, overrides)
    loaded = load_encoder(encoder)
    source = open_source(data)
    spec = test or default_test_source(data)
    if spec is None:
        raise UserError(f"{data!r} has no test images beside it.", "Give them with --test.")
    task = Task(train=source, test=open_source(spec), test_name=spec, seed=0)
    if out is None and encoder_directory(Path(encoder)) is not None:
        out = Path(encoder)
    if config.trained_stages and out is None:
        raise UserError(
            f"{', '.join(config.trained_stages)} of {encoder!r} need a directory to train in.", "Give --out DIR."
        )
    fabric = launch()
    rows = []
    if config.frozen_protocols and fabric.is_global_zero:
        rows = evaluate_encoders(task, config, {encoder: loaded})
        show_results(rows)
    fabric.barrier()
    if config.trained_stages and out is not None:
        rows += _train(task, config, engine, fabric, encoder, loaded, out)
    if out is not None and fabric.is_global_zero:
        write_results(out / "results.json", rows)
    return rows


def _train(
    task: Task,
    config: EvaluateConfig,
    engine: EngineConfig,
    fabric: Fabric,
    name: str,
    encoder: Encoder,
    out: Path,
) -> list[ResultRow]:
    """Carry out the trained protocols; every process calls."""
    train, holdout = split_holdout(task.train, HOLDOUT, task.seed)
    with Display(quiet=not fabric.is_global_zero) as display:
        trained = TrainedTask(
            train=train,
            holdout=holdout,
            test=same_classes(train, task.test),
            test_name=task.test_name,
            seed=task.seed,
            config=config,
            protocols=config.trained_stages,
            engine=engine,
            out=out,
            fabric=fabric,
            display=display,
        )
        rows = evaluate_trained(trained, name, encoder, start=name)
    if fabric.is_global_zero:
        show_trained(rows)
    return rows
