"""A run: a recipe's stages one after another, then its evaluation and report."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.checkpoints.encoder import load_encoder, save_encoder
from layergraft.checkpoints.provenance import trained_on
from layergraft.config.loading import dump_recipe
from layergraft.config.recipe import Recipe
from layergraft.data.skipped import NotedImages, SkippedImages, count_reasons, forget_mended, read_skipped
from layergraft.errors import Lost, Stopped, UserError
from layergraft.graft.cost import step_flops
from layergraft.runs.atomic import write_text
from layergraft.runs.layout import is_done, stage_directory
from layergraft.runs.resume import Resume, claim, open_run
from layergraft.training.display import Display
from layergraft.training.divergence import read_replay, replay_steps
from layergraft.training.guard import SignalGuard, is_loss
from layergraft.training.inputs import CACHE, check_recipe, keep_decoded, load_data
from layergraft.training.launch import launch, machine
from layergraft.training.loop import train_stage
from layergraft.training.measure import analyze_run, evaluate_run, train_protocols
from layergraft.training.memory import SMALL, memory_warning, step_memory
from layergraft.training.origins import first_encoder
from layergraft.training.slurm import requeue
from layergraft.training.stage import prepare_stage, save_stage
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
    except RuntimeError as error:
        if not is_loss(error):
            raise
        saved = max(out.glob("stages/*/checkpoints/step-*.pt"), default="nothing")
        raise Lost(
            f"Another process of this run is gone ({str(error).splitlines()[0]}). Saved: {saved}.\n"
            "Where torchrun does not start the run again by itself, run the same command again to go on."
        ) from None
    return files


class _Training:
    """What the steps of a run share.

    Args:
        recipe: what to do.
        files: where.
    """

    def __init__(self, recipe: Recipe, files: Run) -> None:
        self.recipe, self.files = recipe, files
        self.data = load_data(recipe, files.out)
        self.train, self.holdout, mean, std = self.data
        self.images = self.train.subset(np.concatenate((self.train.keys, self.holdout.keys))).identity
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
        finished = goes_on and (out / "run.json").is_file()
        if goes_on and not finished and self.fabric.is_global_zero:
            forget_mended(out / "skipped.jsonl", self.train, self.recipe.encoder.in_chans)
        self.fabric.barrier()
        if finished:
            say(f"The run in {out} is finished; nothing to do. Its report: {self.files.report}")
            return
        if self.fabric.is_global_zero:
            claim(out, self.recipe)
        say(f"{len(self.train)} images train, {len(self.holdout)} are held out ({self.recipe.data.source}).")
        if self.recipe.data.holdout >= 1 and len(self.holdout) < self.recipe.data.holdout:
            say(f"The hold-out of {self.recipe.data.holdout} was capped at a fifth of the source.")
        began = time.time()
        self.train, self.holdout = keep_decoded(self.recipe, out, self.train, self.holdout)
        # Held-out images are never replaced, so those that cannot be read are noted where they are looked at.
        skipped = SkippedImages(self.recipe.data.max_bad, out / "skipped.jsonl", self.display.say)
        self.holdout = replace(self.holdout, images=NotedImages(self.holdout, skipped))
        self.data = (self.data[0], replace(self.data[1], images=NotedImages(self.data[1], skipped)), *self.data[2:])
        with self.display:
            for name in self.recipe.stages:
                self.stage(name)
        trained = self.recipe.evaluate is not None and self.recipe.evaluate.trained_stages
        if self.fabric.is_global_zero:
            self.measure()
        if trained:
            self.fabric.barrier()
            with self.display:
                train_protocols(self.recipe, out, self.data, self.fabric, self.display)
        # Only the first process looks and writes; the others are not kept waiting for it.
        if self.fabric.is_global_zero:
            self.finish(began)

    def prepare(self, name: str) -> StageRun:
        fabric, out = self.fabric, self.files.out
        return prepare_stage(
            self.recipe,
            name,
            out,
            self.encoder,
            self.train,
            self.holdout,
            fabric.global_rank,
            fabric.world_size,
            fabric.device.type,
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
            # Counted by one process alone: tensors without content cannot be exchanged.
            alone = self.fabric.world_size == 1
            flops = step_flops(stage.encoder, stage.objective, stage.config) if alone else None
            train_stage(self.fabric, stage, self.display.report, self.display.say)
            if self.fabric.is_global_zero:
                save_stage(stage, self.provenance(name) | {"step": stage.steps}, flops)
            self.fabric.barrier()
        elif trained_on(str(directory)) not in (None, self.images):
            raise UserError(
                f"The images of {self.recipe.data.source!r} are not those that stage {name!r} was trained on: "
                "files came or went.",
                "Restore them, or begin a run in another --out. Nothing was changed.",
            )
        self.encoder = load_encoder(directory).train()

    def provenance(self, name: str) -> dict[str, Any]:
        return {"recipe": self.identity, "stage": name, "start": self.recipe.start, "images": self.images}

    def measure(self) -> None:
        """The run's encoder, and what is measured on frozen features."""
        save_encoder(self.encoder, self.files.encoder, self.provenance(list(self.recipe.stages)[-1]))
        if self.recipe.evaluate is not None:
            evaluate_run(self.recipe, self.files.out, self.data, self.display)

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
        shutil.rmtree(files.out / CACHE, ignore_errors=True)
        from layergraft.runs.report.model_card import write_model_card
        from layergraft.runs.report.page import write_report

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
