"""`layergraft train`: train a recipe's stages, then measure, look inside and report."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from layergraft.analysis.run import build_subject, run_analyses
from layergraft.config.comments import Comments
from layergraft.config.recipe import Recipe
from layergraft.data.skipped import count_reasons, read_skipped
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.encoders.checkpoint import load_encoder, save_encoder
from layergraft.encoders.products import products_of_run
from layergraft.encoders.vit import Encoder
from layergraft.errors import Stopped
from layergraft.evaluation.frozen import evaluate_encoders
from layergraft.evaluation.task import Task
from layergraft.graft.donors import first_encoder
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.ending import ending_kept, note_finished
from layergraft.runs.heap import give_memory_back
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.json_files import read_json
from layergraft.runs.layout import Run, stage_directory
from layergraft.runs.lock import locked
from layergraft.runs.metrics import read_metrics, training_seconds
from layergraft.runs.readable import counted
from layergraft.runs.report.model_card import write_model_card
from layergraft.runs.report.page import write_report
from layergraft.runs.result_tables import show_results
from layergraft.runs.results import ResultRow, read_results, write_results
from layergraft.runs.resume import Resume, as_begun, open_run
from layergraft.runs.run_time import RunTime, read_run_time, taken_sentence
from layergraft.training.display import Display
from layergraft.training.divergence import read_replay
from layergraft.training.estimate import run_time, try_run, worth_telling
from layergraft.training.launch import Process, launch, machine
from layergraft.training.run import Training
from layergraft.training.run_data import CACHE, RunData, read_as_begun
from layergraft.training.signals import losses_named, requeue, together
from layergraft.training.transfer import SEGMENTS, TrainedTask, evaluate_trained, show_trained


def train_run(
    recipe: Recipe,
    out: Path,
    resume: Resume,
    replay: Path | None = None,
    comments: Comments | None = None,
    told: RunTime | None = None,
) -> Run:
    """Train, measure and report; goes on where an earlier start of the same run ended.

    Args:
        recipe: what to do.
        out: the run's directory.
        resume: what to do with a run that is there.
        replay: a file of a run that diverged: compute its last steps again, and nothing else.
        comments: why keys of the recipe have their values.
        told: the time of the whole run, where it was tried already.
    """
    files = Run(out=out, encoder=out / "encoder", results=out / "results.json", report=out / "report.html")
    checkpoints = partial(out.glob, "stages/*/checkpoints/step-*.pt")
    try:
        with SignalGuard(), losses_named(lambda: max(checkpoints(), default="nothing")), ExitStack() as stack:
            process = launch()
            with together():
                recipe = read_as_begun(as_begun(recipe, out), out)
                if replay is None and process.is_first:
                    open_run(out, recipe, resume)  # refuses before anything is made
                    stack.enter_context(locked(out, announce, clear=True))
            with together():  # no other process makes a file before the first one has cleared what a kill left
                training = Training(recipe, out, process, comments)
            if replay is not None:
                training.replay(read_replay(replay))
            elif training.open(resume):
                with ending_kept(out if process.is_first else None):
                    training.display.time = tell_time(training, told)
                    _train_and_measure(training, files)
            else:
                if process.is_first:
                    note_finished(out)
                training.display.say(f"The run in {out} is finished; nothing to do. Its report: {files.report}")
            check()
    except Stopped as stopped:
        note = requeue() if stopped.requeue else None
        raise Stopped(f"{stopped} {note}") if note else stopped from None
    return files


def tell_time(training: Training, told: RunTime | None) -> RunTime | None:
    """The time of the whole run, kept for `status`; None where it is over in seconds, or several processes train.

    Args:
        training: opened.
        told: what was said before.
    """
    if training.process.world_size > 1:
        return None
    kept = read_run_time(training.out)
    if told is None and kept is not None and kept.recipe in ("", training.identity):
        told = kept  # else a run goes on with other lengths, or measures something else
    if told is None and worth_telling(training.recipe, training.encoder, len(training.data.train)):
        told = run_time(training.recipe, training.data, *try_run(training.recipe, training.data))
        training.display.say(told.sentence() if told else "How long it takes was not tried: a step is too large.")
    if told is not None:
        told = replace(told, recipe=training.identity)
        told.write(training.out)
    return told


def _train_and_measure(training: Training, files: Run) -> None:
    """The whole of a run; all processes call."""
    began = time.time()
    recipe = training.recipe
    training.train()
    trained = time.time()
    # Only the first process measures and writes; the others are not kept waiting for it.
    first = training.process.is_first
    goes_on_together = recipe.evaluate is not None and bool(recipe.evaluate.trained_stages)
    with together() if goes_on_together else nullcontext():
        if first:
            save_encoder(training.encoder, files.encoder, training.provenance(list(recipe.stages)[-1]))
            if recipe.evaluate is not None:
                evaluate_run(recipe, files.out, training.data, training.display)
        check()
    if goes_on_together:
        with training.display:
            train_protocols(recipe, files.out, training.data, training.process, training.display)
    if first:
        _finish(training, files, began, trained)


def _finish(training: Training, files: Run, began: float, trained: float) -> None:
    """The run's findings, summary and report.

    Args:
        training: done.
        files: of the run.
        began: when this start of the run began to train.
        trained: when it had trained.
    """
    recipe, display = training.recipe, training.display
    skipped = read_skipped(files.out / "skipped.jsonl")
    if skipped:
        display.say(f"{len(skipped)} images were skipped, skipped.jsonl names them: {count_reasons(skipped)}.")
    measured = time.time()
    give_memory_back()
    analyze_run(recipe, files.out, display)
    check()
    ended = time.time()
    taken = RunTime(
        stages=_trained_seconds(training, trained - began),
        evaluation=measured - trained,
        analyses=ended - measured,
    )
    summary = {
        "recipe": training.identity,
        "machine": machine(),
        "seconds_since_start": ended - began,
        "time": {"told": display.time.seconds() if display.time else None, "taken": taken.seconds()},
        "data": {
            "source": recipe.data.source,
            "train": len(training.data.train),
            "holdout": len(training.data.holdout),
            "fingerprint": training.data.train.fingerprint,
            "skipped": len(skipped),
        },
        "guards": _guards(training),
    }
    write_text(files.out / "run.json", json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(files.out / CACHE, ignore_errors=True)
    write_model_card(files.out, files.encoder)
    write_report([files.out])
    display.say(f"Encoder: {files.encoder}\nReport:  {files.report}\nTime:    {taken_sentence(taken, display.time)}")


def _guards(training: Training) -> dict[str, str]:
    """Stage -> the sentence about what its guard has kept."""
    plans = {
        name: read_json(stage_directory(training.out, training.recipe, name) / "plan.json")
        for name, stage in training.recipe.stages.items()
        if stage.guard is not None
    }
    return {name: str(plan["guard"]["sentence"]) for name, plan in plans.items() if plan.get("guard")}


def _trained_seconds(training: Training, this_start: float) -> dict[str, float]:
    """Stage -> seconds it took over all starts of the run, looks at held-out images included.

    Args:
        training: done.
        this_start: seconds since this start of the run began to train. The rows of the metrics leave out the looks, so
            that the sum is at least as long.
    """
    seconds = {}
    for name, stage in training.recipe.stages.items():
        rows = read_metrics(stage_directory(training.out, training.recipe, name) / "metrics.jsonl")
        seconds[name] = training_seconds(rows, min(stage.batch_size, len(training.data.train)))
    whole = sum(seconds.values())
    factor = max(1.0, this_start / whole) if whole else 1.0
    return {name: factor * value for name, value in seconds.items()}


def run_encoders(recipe: Recipe, out: Path, data: RunData) -> dict[str, Encoder]:
    """Every encoder of a run by the name it has in results.json, from the first weights to the last stage."""
    encoders = {"random": first_encoder(recipe, data.mean, data.std)}
    for name in recipe.stages:
        directory = stage_directory(out, recipe, name)
        for suffix, folder in (("", "encoder"), ("/momentum", "encoder_momentum"), ("/ema", "encoder_ema")):
            if (directory / folder).is_dir():
                encoders[name + suffix] = load_encoder(directory / folder)
    return encoders


def analyze_run(recipe: Recipe, out: Path, display: Display) -> None:
    """Look inside the last encoder, for the report."""
    assert recipe.data.source is not None
    if recipe.analyze:
        subject = build_subject(str(out), [], recipe.data.source)
        run_analyses(subject, recipe.analyze, recipe.data.source, out / "analysis.json", display.say)


def evaluate_run(recipe: Recipe, out: Path, data: RunData, display: Display) -> list[ResultRow]:
    """Measure every encoder of a run, the recipe's first weights and the pixels.

    Args:
        recipe: the run's.
        out: the run.
        data: training and held-out images as the run split them: a folder that is listed anew may have changed.
        display: where it says what it does.
    """
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    protocols = recipe.evaluate.frozen_protocols
    if not protocols:
        return []
    train, holdout = data.train, data.holdout
    if train.labels is None:
        display.say(f"{recipe.data.source!r} has no labels: {', '.join(protocols)} are skipped.")
        return []
    spec = default_test_source(recipe.data.source)
    if spec is None and (recipe.evaluate.chooses or not len(holdout)):
        display.say(f"{recipe.data.source!r} has no test images (val/ or test/ beside train/): evaluation is skipped.")
        return []
    if spec is None:
        task = Task.on_holdout(train, holdout, recipe.seed)
        display.say(f"{recipe.data.source!r} has no test images: measuring on the {len(holdout)} that are held out …")
    else:
        held = holdout if recipe.evaluate.chooses else None
        task = Task(train=train, test=open_source(spec), test_name=spec, seed=recipe.seed, holdout=held)
        for line in task.test.remarks:
            display.say(line)
        display.say(f"Measuring on {counted(len(task.test), 'image')} of {spec} …")
    encoders = run_encoders(recipe, out, data)
    keep = partial(write_results, out / "results.json")
    with products_of_run(recipe.engine.products, next(iter(encoders.values())).device)():
        rows = evaluate_encoders(task, recipe.evaluate, encoders, out, keep)
    show_results(rows)
    return read_results(out / "results.json")


def train_protocols(recipe: Recipe, out: Path, data: RunData, process: Process, display: Display) -> None:
    """Carry out the trained protocols on the first weights and on the last stage's encoder; all processes call."""
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    train, holdout = data.train, data.holdout
    spec = default_test_source(recipe.data.source)
    asked = recipe.evaluate.trained_stages
    possible = (
        []
        if spec is None
        else [name for name in asked if (train.masks if name in SEGMENTS else train.labels) is not None]
    )
    skipped = [name for name in asked if name not in possible]
    if skipped:
        display.say(f"{recipe.data.source!r} has no labels, masks or test images for {', '.join(skipped)}: skipped.")
    if spec is None or not possible:
        return
    images = Task(train=train, test=open_source(spec), test_name=spec, seed=recipe.seed, holdout=holdout)
    task = TrainedTask.of(images, recipe.evaluate, possible, recipe.engine, out, process, display)
    last = list(recipe.stages)[-1]
    rows = evaluate_trained(task, "random", first_encoder(recipe, data.mean, data.std))
    directory = stage_directory(out, recipe, last)
    rows += evaluate_trained(task, last, load_encoder(directory), start=str(directory))
    if process.is_first:
        write_results(out / "results.json", rows)
        show_trained(rows)
