"""A run: a recipe's stages one after another, then its evaluation and report."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
import yaml
from lightning_fabric import Fabric

from layergraft.checkpoints.atomic import write_text
from layergraft.checkpoints.encoder import default_statistics, load_encoder, save_encoder
from layergraft.config.loading import dump_recipe
from layergraft.config.recipe import Recipe
from layergraft.data.sources import Source, default_test_source, open_source, split_holdout
from layergraft.errors import UserError
from layergraft.evaluation.evaluate import Task, evaluate_encoders
from layergraft.evaluation.results import ResultRow, read_results, show_results, write_results
from layergraft.evaluation.splits import few_labels
from layergraft.evaluation.trained import TrainedTask, evaluate_trained, same_classes, show_trained
from layergraft.graft.apply import count_parameters, stage_rows
from layergraft.graft.plan import build_plan
from layergraft.models.vit import Encoder
from layergraft.objectives.base import create_objective, know_classes
from layergraft.training.display import Display
from layergraft.training.launch import launch
from layergraft.training.loop import train_stage
from layergraft.training.stage import first_encoder, is_done, prepare_stage, save_stage, stage_directory

Resume = Literal["auto", "never", "must"]
# Changing these does not change what is learned, so a run may go on with other values.
FREE_KEYS = (
    "data.workers",
    "engine.log_every",
    "engine.checkpoint_minutes",
    "engine.checkpoint_steps",
    "engine.keep",
    "evaluate",
    "analyze",
    "data.max_bad",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The files of a run.

    Args:
        out: its directory.
        encoder: the last stage's encoder directory.
        results: `results.json`; it does not exist where nothing was measured.
        report: `report.html`.
    """

    out: Path
    encoder: Path
    results: Path
    report: Path


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for key, part in value.items():
            found |= _flat(part, f"{path}.{key}" if path else str(key))
        return found
    return {path: value}


def _differences(old: Recipe, new: Recipe) -> list[str]:
    a, b = _flat(msgspec.to_builtins(old)), _flat(msgspec.to_builtins(new))
    keys = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
    return sorted(key for key in keys if not any(key == free or key.startswith(free + ".") for free in FREE_KEYS))


def open_run(out: Path, recipe: Recipe, resume: Resume) -> bool:
    """Claim the output directory; True where it holds an earlier start of this very run.

    Raises:
        UserError: it holds something else; nothing is overwritten.
    """
    file = out / "recipe.yaml"
    if file.is_file():
        old = msgspec.convert(yaml.safe_load(file.read_text()), Recipe)
        differing = _differences(old, recipe)
        if differing:
            raise UserError(
                f"{str(out)!r} holds another run: its recipe differs in {', '.join(differing[:8])}.",
                "Use another --out, or the same settings to go on. Nothing was changed.",
            )
        if resume == "never":
            raise UserError(f"{str(out)!r} holds this run already, and --resume is never.", "Use another --out.")
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} exists and is no run of layergraft.", "Use another --out. Nothing was changed.")
    if resume == "must":
        raise UserError(f"There is no run in {str(out)!r} to go on with.", "Check --out, or use --resume auto.")
    return False


def machine() -> dict[str, Any]:
    """What the numbers were made on."""
    import timm

    cpu = platform.processor() or platform.machine()
    try:
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        cpu = names[0] if names else cpu
    except OSError:
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu, "versions": versions}


def load_data(recipe: Recipe) -> tuple[Source, Source, tuple[float, ...], tuple[float, ...]]:
    """(training images, held-out images, mean, std)."""
    if recipe.data.source is None:
        raise UserError("The recipe names no images.", "Give --data FOLDER (or builtin:fashion-canvas).")
    source = open_source(recipe.data.source)
    train, holdout = split_holdout(source, recipe.data.holdout, recipe.seed)
    channels = recipe.encoder.in_chans
    if channels not in (1, 3):
        raise UserError(f"encoder.in_chans is {channels}; images are read with 1 or 3 channels.")
    mean, std = default_statistics(channels)
    own = (source.mean, source.std) if source.mean and len(source.mean) == channels else (None, None)
    return train, holdout, recipe.data.mean or own[0] or mean, recipe.data.std or own[1] or std


def check_recipe(recipe: Recipe, encoder: Encoder, train: Source) -> None:
    """Find what would stop the run later, before anything is written.

    Raises:
        UserError: a plan does not fit the encoder, or there are more shots than images of a class.
    """
    for name, stage in recipe.stages.items():
        rows = count_parameters(
            stage_rows(encoder, create_objective(know_classes(stage.objective, train, name), encoder))
        )
        build_plan(stage, name, rows, encoder.depth)
    if recipe.evaluate is not None and train.labels is not None and "logistic" in recipe.evaluate.protocols:
        for shots in recipe.evaluate.frozen_shots:
            few_labels(train.own_labels, train.keys, train.classes, shots, 0)


def train_run(recipe: Recipe, out: Path, resume: Resume) -> Run:
    """Train, measure and report; goes on where an earlier start of the same run ended."""
    files = Run(out=out, encoder=out / "encoder", results=out / "results.json", report=out / "report.html")
    train, holdout, mean, std = load_data(recipe)
    encoder = first_encoder(recipe, mean, std)
    check_recipe(recipe, encoder, train)
    fabric = launch(recipe.engine)
    display = Display(quiet=not fabric.is_global_zero)
    goes_on = open_run(out, recipe, resume)
    fabric.barrier()
    if goes_on and (out / "run.json").is_file():
        display.say(f"The run in {out} is finished; nothing to do. Its report: {files.report}")
        return files
    if fabric.is_global_zero and not goes_on:
        write_text(out / "recipe.yaml", dump_recipe(recipe))
    display.say(f"{len(train)} images train, {len(holdout)} are held out ({recipe.data.source}).")
    if recipe.data.holdout >= 1 and len(holdout) < recipe.data.holdout:
        display.say(f"The hold-out of {recipe.data.holdout} was capped at a fifth of the source.")
    identity = hashlib.blake2b(dump_recipe(recipe).encode(), digest_size=8).hexdigest()
    began = time.time()
    with display:
        for name in recipe.stages:
            directory = stage_directory(out, recipe, name)
            if not is_done(directory):
                stage = prepare_stage(recipe, name, out, encoder, train, holdout, fabric.global_rank, fabric.world_size)
                if stage.config.batch_size < recipe.stages[name].batch_size:
                    display.say(f"The batch of stage {name} was capped at {stage.config.batch_size} images.")
                if (directory / "checkpoints").is_dir():
                    display.say(f"Stage {name} goes on from its newest checkpoint in {directory / 'checkpoints'}.")
                train_stage(fabric, stage, display.report, display.say)
                if fabric.is_global_zero:
                    save_stage(stage, {"recipe": identity, "stage": name, "step": stage.steps, "start": recipe.start})
                fabric.barrier()
            encoder = load_encoder(directory).train()
    if fabric.is_global_zero:
        save_encoder(encoder, files.encoder, {"recipe": identity, "stage": name, "start": recipe.start})
        if recipe.evaluate is not None:
            evaluate_run(recipe, out, display)
    fabric.barrier()
    if recipe.evaluate is not None and recipe.evaluate.trained_stages:
        with display:
            train_protocols(recipe, out, fabric, display)
    if fabric.is_global_zero:
        analyze_run(recipe, out, display)
        summary = {
            "recipe": identity,
            "machine": machine(),
            "seconds_since_start": time.time() - began,
            "data": {
                "source": recipe.data.source,
                "train": len(train),
                "holdout": len(holdout),
                "fingerprint": train.fingerprint,
            },
        }
        write_text(out / "run.json", json.dumps(summary, indent=1) + "\n")
        from layergraft.report.page import write_report

        write_report([out])
        display.say(f"Encoder: {files.encoder}\nReport:  {files.report}")
    fabric.barrier()
    return files


def run_encoders(recipe: Recipe, out: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Encoder]:
    """Every encoder of a run by the name it has in results.json, from the first weights to the last stage."""
    encoders = {"random": first_encoder(recipe, mean, std)}
    for name in recipe.stages:
        directory = stage_directory(out, recipe, name)
        for suffix, folder in (("", "encoder"), ("/momentum", "encoder_momentum"), ("/ema", "encoder_ema")):
            if (directory / folder).is_dir():
                encoders[name + suffix] = load_encoder(directory / folder)
    return encoders


def analyze_run(recipe: Recipe, out: Path, display: Display) -> None:
    """Look inside the last encoder, for the report."""
    from layergraft.analysis.command import build_subject, run_analyses
    from layergraft.analysis.findings import write_analysis

    assert recipe.data.source is not None
    if recipe.analyze:
        subject = build_subject(str(out), [], recipe.data.source)
        entries, _ = run_analyses(subject, recipe.analyze, recipe.data.source, display.say)
        write_analysis(out / "analysis.json", entries)


def evaluate_run(recipe: Recipe, out: Path, display: Display) -> list[ResultRow]:
    """Measure every encoder of a run, the recipe's first weights and the pixels."""
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    protocols = recipe.evaluate.frozen_protocols
    if not protocols:
        return []
    train, _, mean, std = load_data(recipe)
    if train.labels is None:
        display.say(f"{recipe.data.source!r} has no labels: {', '.join(protocols)} are skipped.")
        return []
    spec = default_test_source(recipe.data.source)
    if spec is None:
        display.say(f"{recipe.data.source!r} has no test images (val/ or test/ beside train/): evaluation is skipped.")
        return []
    task = Task(train=train, test=open_source(spec), test_name=spec, seed=recipe.seed)
    display.say(f"Measuring on {len(task.test)} images of {spec} …")
    rows = evaluate_encoders(task, recipe.evaluate, run_encoders(recipe, out, mean, std))
    write_results(out / "results.json", rows)
    show_results(rows)
    return read_results(out / "results.json")


def train_protocols(recipe: Recipe, out: Path, fabric: Fabric, display: Display) -> None:
    """Carry out the trained protocols on the first weights and on the last stage's encoder; all processes call."""
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    train, holdout, mean, std = load_data(recipe)
    spec = default_test_source(recipe.data.source)
    if train.labels is None or spec is None:
        lacks = "labels" if train.labels is None else "test images (val/ or test/ beside train/)"
        display.say(f"{recipe.data.source!r} has no {lacks}: {', '.join(recipe.evaluate.trained_stages)} are skipped.")
        return
    task = TrainedTask(
        train=train,
        holdout=holdout,
        test=same_classes(train, open_source(spec)),
        test_name=spec,
        seed=recipe.seed,
        config=recipe.evaluate,
        engine=recipe.engine,
        out=out,
        fabric=fabric,
        display=display,
    )
    last = list(recipe.stages)[-1]
    rows = evaluate_trained(task, "random", first_encoder(recipe, mean, std))
    rows += evaluate_trained(task, last, load_encoder(stage_directory(out, recipe, last)))
    if fabric.is_global_zero:
        write_results(out / "results.json", rows)
        show_trained(rows)
