"""A run: a recipe's stages one after another, then its evaluation and report."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from layergraft.checkpoints.atomic import write_text
from layergraft.checkpoints.encoder import default_statistics, load_encoder, save_encoder
from layergraft.config.loading import dump_recipe
from layergraft.config.recipe import Recipe
from layergraft.data.skipped import count_reasons, read_skipped
from layergraft.data.sources import Source, default_test_source, open_source, split_holdout
from layergraft.errors import Stopped, UserError
from layergraft.evaluation.evaluate import Task, evaluate_encoders
from layergraft.evaluation.labels import same_classes
from layergraft.evaluation.results import ResultRow, read_results, show_results, write_results
from layergraft.evaluation.splits import draw_splits
from layergraft.evaluation.trained import SEGMENTS, TrainedTask, evaluate_trained, show_trained
from layergraft.graft.apply import stage_plan
from layergraft.models.vit import Encoder
from layergraft.objectives.base import create_objective, know_classes
from layergraft.training.display import Display
from layergraft.training.divergence import read_replay, replay_steps
from layergraft.training.guard import SignalGuard
from layergraft.training.launch import launch, machine
from layergraft.training.loop import train_stage
from layergraft.training.memory import SMALL, memory_warning, step_memory
from layergraft.training.origins import first_encoder, shaped
from layergraft.training.resume import Resume, claim, open_run
from layergraft.training.slurm import requeue
from layergraft.training.stage import is_done, prepare_stage, save_stage, stage_directory
from layergraft.training.stage_run import StageRun
from layergraft.training.state import State
from layergraft.training.trainer import Trainer


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


def load_data(recipe: Recipe, out: Path | None = None) -> tuple[Source, Source, tuple[float, ...], tuple[float, ...]]:
    """(training images, held-out images, mean, std); the index of the images lies in the run, where it may be one."""
    if recipe.data.source is None:
        raise UserError("The recipe names no images.", "Give --data FOLDER (or builtin:fashion-canvas).")
    index = out / "index" if out and ((out / "recipe.yaml").is_file() or not out.exists()) else None
    source = open_source(recipe.data.source, index)
    train, holdout = split_holdout(source, recipe.data.holdout, recipe.seed)
    channels = recipe.encoder.in_chans
    mean, std = default_statistics(channels)
    own = (source.mean, source.std) if source.mean and len(source.mean) == channels else (None, None)
    return train, holdout, recipe.data.mean or own[0] or mean, recipe.data.std or own[1] or std


def check_recipe(recipe: Recipe, encoder: Encoder, train: Source, out: Path) -> None:
    """Find what would stop the run later, before anything is written.

    Raises:
        UserError: a plan does not fit the encoder, a source cannot be read, or there are more shots than images of a
            class.
    """
    sources: set[str] = set()
    for name, stage in recipe.stages.items():
        objective = create_objective(know_classes(stage.objective, train, name), encoder)
        sources |= {row.source for row in stage_plan(stage, name, encoder, objective)[1].rows}
    for source in sorted(sources - {"previous", "fresh"}):
        if not Path(source).is_relative_to(out):  # else it is still to be made
            shaped(source, recipe.encoder)
    if recipe.evaluate is not None and train.labels is not None and recipe.evaluate.frozen_protocols:
        draw_splits(train, recipe.evaluate.frozen_shots, 1)


def train_run(recipe: Recipe, out: Path, resume: Resume, replay: Path | None = None) -> Run:
    """Train, measure and report; goes on where an earlier start of the same run ended.

    Args:
        recipe: what to do.
        out: the run's directory.
        resume: what to do with a run that is there.
        replay: a file of a run that diverged: compute its last steps again, and nothing else.
    """
    files = Run(out=out, encoder=out / "encoder", results=out / "results.json", report=out / "report.html")
    try:
        with SignalGuard(wait=False):
            _Training(recipe, files).run(resume, replay)
    except Stopped as stopped:
        note = requeue() if stopped.requeue else None
        raise Stopped(f"{stopped} {note}") if note else stopped from None
    return files


class _Training:
    """What the steps of a run share.

    Args:
        recipe: what to do.
        files: where.
    """

    def __init__(self, recipe: Recipe, files: Run) -> None:
        self.recipe, self.files = recipe, files
        self.train, self.holdout, mean, std = load_data(recipe, files.out)
        self.encoder = first_encoder(recipe, mean, std)
        check_recipe(recipe, self.encoder, self.train, files.out)
        self.fabric = launch()
        self.display = Display(quiet=not self.fabric.is_global_zero)
        self.identity = hashlib.blake2b(dump_recipe(recipe).encode(), digest_size=8).hexdigest()

    def run(self, resume: Resume, replay: Path | None) -> None:
        out, say = self.files.out, self.display.say
        if replay is not None:
            self.replay(read_replay(replay))
            return
        goes_on = open_run(out, self.recipe, resume)
        self.fabric.barrier()
        if goes_on and (out / "run.json").is_file():
            say(f"The run in {out} is finished; nothing to do. Its report: {self.files.report}")
            return
        if self.fabric.is_global_zero:
            claim(out, self.recipe)
        say(f"{len(self.train)} images train, {len(self.holdout)} are held out ({self.recipe.data.source}).")
        if self.recipe.data.holdout >= 1 and len(self.holdout) < self.recipe.data.holdout:
            say(f"The hold-out of {self.recipe.data.holdout} was capped at a fifth of the source.")
        began = time.time()
        with self.display:
            for name in self.recipe.stages:
                self.stage(name)
        trained = self.recipe.evaluate is not None and self.recipe.evaluate.trained_stages
        if self.fabric.is_global_zero:
            self.measure()
        if trained:
            self.fabric.barrier()
            with self.display:
                train_protocols(self.recipe, out, self.fabric, self.display)
        # Only the first process looks and writes; the others are not kept waiting for it.
        if self.fabric.is_global_zero:
            self.finish(began)

    def prepare(self, name: str) -> StageRun:
        fabric, out = self.fabric, self.files.out
        return prepare_stage(
            self.recipe, name, out, self.encoder, self.train, self.holdout, fabric.global_rank, fabric.world_size
        )

    def stage(self, name: str) -> None:
        """Train a stage, unless it has left all its files."""
        directory = stage_directory(self.files.out, self.recipe, name)
        if not is_done(directory):
            stage = self.prepare(name)
            if stage.config.batch_size < self.recipe.stages[name].batch_size:
                self.display.say(f"The batch of stage {name} was capped at {stage.config.batch_size} images.")
            if sum(row.parameters for row in stage.plan.rows) > SMALL:
                world = self.fabric.world_size
                needed = step_memory(stage.encoder, stage.objective, stage.plan, stage.config, stage.engine, world)
                warning = memory_warning(name, needed, self.fabric.device)
                if warning:
                    self.display.say(warning)
            train_stage(self.fabric, stage, self.display.report, self.display.say)
            if self.fabric.is_global_zero:
                save_stage(stage, self.provenance(name) | {"step": stage.steps})
            self.fabric.barrier()
        self.encoder = load_encoder(directory).train()

    def provenance(self, name: str) -> dict[str, Any]:
        return {"recipe": self.identity, "stage": name, "start": self.recipe.start}

    def measure(self) -> None:
        """The run's encoder, and what is measured on frozen features."""
        save_encoder(self.encoder, self.files.encoder, self.provenance(list(self.recipe.stages)[-1]))
        if self.recipe.evaluate is not None:
            evaluate_run(self.recipe, self.files.out, self.display)

    def finish(self, began: float) -> None:
        """The run's findings, summary and report."""
        recipe, files = self.recipe, self.files
        skipped = read_skipped(files.out / "skipped.jsonl")
        if skipped:
            self.display.say(f"{len(skipped)} images were skipped, skipped.jsonl names them: {count_reasons(skipped)}.")
        analyze_run(recipe, files.out, self.display)
        summary = {
            "recipe": self.identity,
            "machine": machine(),
            "seconds_since_start": time.time() - began,
            "data": {
                "source": recipe.data.source,
                "train": len(self.train),
                "holdout": len(self.holdout),
                "fingerprint": self.train.fingerprint,
                "skipped": len(skipped),
            },
        }
        write_text(files.out / "run.json", json.dumps(summary, indent=1) + "\n")
        from layergraft.report.model_card import write_model_card
        from layergraft.report.page import write_report

        write_model_card(files.out, files.encoder)
        write_report([files.out])
        self.display.say(f"Encoder: {files.encoder}\nReport:  {files.report}")

    def replay(self, recorded: State) -> None:
        """Compute the last steps of a run that diverged again, with this recipe, and say what is not finite."""
        for name in self.recipe.stages:
            if name == recorded["stage"]:
                break
            self.encoder = load_encoder(stage_directory(self.files.out, self.recipe, name)).train()
        else:
            raise UserError(f"The replay file is of stage {recorded['stage']!r}, which the recipe does not have.")
        lines, bad = replay_steps(Trainer(self.fabric, self.prepare(name)), recorded)
        for line in lines:
            self.display.say(line)
        if bad:
            raise UserError("The steps are still not finite.", "Nothing was changed.")
        self.display.say("With these settings the steps are finite. Nothing was changed.")


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

    assert recipe.data.source is not None
    if recipe.analyze:
        subject = build_subject(str(out), [], recipe.data.source)
        run_analyses(subject, recipe.analyze, recipe.data.source, out / "analysis.json", display.say)


def evaluate_run(recipe: Recipe, out: Path, display: Display) -> list[ResultRow]:
    """Measure every encoder of a run, the recipe's first weights and the pixels."""
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    protocols = recipe.evaluate.frozen_protocols
    if not protocols:
        return []
    train, holdout, mean, std = load_data(recipe, out)
    if train.labels is None:
        display.say(f"{recipe.data.source!r} has no labels: {', '.join(protocols)} are skipped.")
        return []
    spec = default_test_source(recipe.data.source)
    if spec is None:
        display.say(f"{recipe.data.source!r} has no test images (val/ or test/ beside train/): evaluation is skipped.")
        return []
    held = holdout if recipe.evaluate.chooses else None
    task = Task(train=train, test=open_source(spec), test_name=spec, seed=recipe.seed, holdout=held)
    display.say(f"Measuring on {len(task.test)} images of {spec} …")
    encoders = run_encoders(recipe, out, mean, std)
    rows = evaluate_encoders(task, recipe.evaluate, encoders, out)
    write_results(out / "results.json", rows)
    show_results(rows)
    return read_results(out / "results.json")


def train_protocols(recipe: Recipe, out: Path, fabric: Fabric, display: Display) -> None:
    """Carry out the trained protocols on the first weights and on the last stage's encoder; all processes call."""
    assert recipe.evaluate is not None
    assert recipe.data.source is not None
    train, holdout, mean, std = load_data(recipe, out)
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
