"""What a run measures at its end: frozen features, trained protocols, and a look inside."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from layergraft.checkpoints.encoder import load_encoder
from layergraft.config.recipe import Recipe
from layergraft.data.sources.opening import default_test_source, open_source
from layergraft.data.sources.source import Source
from layergraft.evaluation.evaluate import Task, evaluate_encoders
from layergraft.evaluation.labels import same_classes
from layergraft.evaluation.trained import SEGMENTS, TrainedTask, evaluate_trained, show_trained
from layergraft.models.vit import Encoder
from layergraft.runs.layout import stage_directory
from layergraft.runs.results import ResultRow, read_results, show_results, write_results
from layergraft.training.display import Display
from layergraft.training.origins import first_encoder


def run_encoders(recipe: Recipe, out: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Encoder]:
    """Every encoder of a run by the name it has in results.json, from the first weights to the last stage."""
    encoders = {"random": first_encoder(recipe, mean, std)}
    for name in recipe.stages:
        directory = stage_directory(out, recipe, name)
        for suffix, folder in (("", "encoder"), ("/momentum", "encoder_momentum"), ("/ema", "encoder_ema")):
            if (directory / folder).is_dir():
                encoders[name + suffix] = load_encoder(directory / folder)
    return encoders


Data = tuple[Source, Source, tuple[float, ...], tuple[float, ...]]


def analyze_run(recipe: Recipe, out: Path, display: Display) -> None:
    """Look inside the last encoder, for the report."""
    from layergraft.analysis.command import build_subject, run_analyses

    assert recipe.data.source is not None
    if recipe.analyze:
        subject = build_subject(str(out), [], recipe.data.source)
        run_analyses(subject, recipe.analyze, recipe.data.source, out / "analysis.json", display.say)


def evaluate_run(recipe: Recipe, out: Path, data: Data, display: Display) -> list[ResultRow]:
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
    train, holdout, mean, std = data
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
        display.say(f"Measuring on {len(task.test)} images of {spec} …")
    encoders = run_encoders(recipe, out, mean, std)
    rows = evaluate_encoders(task, recipe.evaluate, encoders, out)
    write_results(out / "results.json", rows)
    show_results(rows)
    return read_results(out / "results.json")


def train_protocols(recipe: Recipe, out: Path, data: Data, fabric: Fabric, display: Display) -> None:
    """Carry out the trained protocols on the first weights and on the last stage's encoder; all processes call."""
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    train, holdout, mean, std = data
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
    task = TrainedTask(
        train=train,
        holdout=holdout,
        test=same_classes(train, open_source(spec)),
        test_name=spec,
        seed=recipe.seed,
        config=recipe.evaluate,
        protocols=possible,
        engine=recipe.engine,
        out=out,
        fabric=fabric,
        display=display,
    )
    last = list(recipe.stages)[-1]
    rows = evaluate_trained(task, "random", first_encoder(recipe, mean, std))
    directory = stage_directory(out, recipe, last)
    rows += evaluate_trained(task, last, load_encoder(directory), start=str(directory))
    if fabric.is_global_zero:
        write_results(out / "results.json", rows)
        show_trained(rows)
