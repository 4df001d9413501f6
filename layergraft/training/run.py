"""A run: a recipe's stages one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from layergraft.config.comments import Comments
from layergraft.config.loading import recipe_hash
from layergraft.config.recipe import Recipe
from layergraft.data.skipped import SkippedImages, forget_mended, read_skipped
from layergraft.data.sources.contents import Contents, check_contents, write_contents
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.provenance import trained_on
from layergraft.errors import UserError
from layergraft.graft.donors import first_encoder
from layergraft.runs.heap import give_memory_back
from layergraft.runs.interruption import check
from layergraft.runs.json_files import read_json
from layergraft.runs.layout import is_done, stage_directory
from layergraft.runs.readable import counted
from layergraft.runs.resume import Resume, claim, open_run
from layergraft.training.check_recipe import check_recipe
from layergraft.training.checkpoints import State
from layergraft.training.cost import step_flops
from layergraft.training.display import Display
from layergraft.training.divergence import replay_steps
from layergraft.training.launch import Process, other_threads
from layergraft.training.loop import train_stage
from layergraft.training.memory import SMALL, memory_warning, step_memory
from layergraft.training.precision import SETTLED, linear_products_of, settle_precision
from layergraft.training.run_data import IMAGES, keep_decoded, load_data, note_unreadable, remarks_on, with_source
from layergraft.training.signals import together
from layergraft.training.stage import StageRun, prepare_stage
from layergraft.training.stage_files import save_stage, save_weights
from layergraft.training.trainer import Trainer


class Training:
    """What the stages of a run share: its images, the encoder so far, and the processes.

    Args:
        recipe: what to do.
        out: the run's directory.
        process: launched.
        comments: why keys of the recipe have their values; None keeps those that are there.
    """

    def __init__(self, recipe: Recipe, out: Path, process: Process, comments: Comments | None = None) -> None:
        self.out, self.comments = out, comments
        asked = recipe.engine.precision
        recipe = msgspec.structs.replace(recipe, engine=settle_precision(recipe.engine, process.device))
        self.data = load_data(recipe, out)
        self.recipe = recipe = with_source(recipe, self.data.train.spec)  # with a range that was found
        check()
        self.images = self.data.whole.identity
        self.encoder = first_encoder(recipe, self.data.mean, self.data.std)
        self.encoder.reads = self.data.train.options
        check_recipe(recipe, self.encoder, self.data, out)
        self.decoded = self.data
        check()
        self.process = process
        self.display = Display(quiet=not self.process.is_first)
        if asked == "auto":
            self.display.say(f"engine.precision auto: {SETTLED[recipe.engine.precision]}")
        self.identity = recipe_hash(recipe)
        self.contents: Contents | None = None

    def open(self, resume: Resume) -> bool:
        """Make the output directory this run's; all processes call.

        Args:
            resume: what to do with a run that is there.

        Returns:
            Whether there is something to do: False where the run is finished.

        Raises:
            UserError: the directory holds something else, or `resume` forbids to go on; nothing is changed.
        """
        with together():
            goes_on = open_run(self.out, self.recipe, resume)
            if goes_on and all((self.out / name).is_file() for name in ("run.json", "report.html")):
                return False
            linear_products_of(self.recipe.engine, self.process.device)  # refused before the directory is the run's
            unreadable = self.out / "skipped.jsonl"
            self.contents = check_contents(self.out / IMAGES, self.data.whole, read_skipped(unreadable))
            if goes_on and self.process.is_first:
                forget_mended(unreadable, self.data.train, self.recipe.encoder.in_chans)
        with together():
            if self.process.is_first:
                claim(self.out, self.recipe, self.comments)
                # A run of an earlier version has no such file: its stages know their images, and may yet refuse these.
                if not goes_on or (self.out / IMAGES).is_file():
                    write_contents(self.out / IMAGES, self.contents)
        return True

    def train(self) -> None:
        """Train all stages that have not left all their files yet; all processes call."""
        source, wanted = self.recipe.data.source, self.recipe.data.holdout
        train, holdout = self.data.train, self.data.holdout
        dealt = {"proportion": "in proportion to its size", "class": "as many as of any other"}
        labelled = train.labels is not None and len(holdout)
        how = f", of each class {dealt[self.recipe.data.holdout_by]}" if labelled else ""
        self.display.say(f"{len(train)} images train, {len(holdout)} are held out ({source}){how}.")
        if wanted >= 1 and len(holdout) < wanted:
            self.display.say(
                f"The hold-out of {wanted} was capped: at a fifth of the source, or where a class has one image."
            )
        if self.process.is_first:
            for line in remarks_on(self.recipe, self.encoder, train, chosen=self.comments is not None):
                self.display.say(line)
        self.decoded = keep_decoded(self.recipe, self.out, self.data)
        # Held-out images are never replaced, so those that cannot be read are noted where they are looked at.
        skipped = SkippedImages(self.recipe.data.max_bad, self.out / "skipped.jsonl", self.display.say)
        self.decoded = note_unreadable(self.decoded, skipped)
        self.data = note_unreadable(self.data, skipped)
        with self.display:
            for name in self.recipe.stages:
                self.stage(name)
                give_memory_back()  # the next stage's steps are of other sizes, and an evaluation has none
        if self.process.is_first:  # also where every stage was finished before
            write_contents(self.out / IMAGES, self.contents)

    def prepare(self, name: str) -> StageRun:
        """Build a stage on the encoder as it is now."""
        return prepare_stage(self.recipe, name, self.out, self.encoder, self.decoded, self.process)

    def stage(self, name: str) -> None:
        """Train a stage, unless it has left all its files."""
        check()
        directory = stage_directory(self.out, self.recipe, name)
        if not is_done(directory):
            stage = self.prepare(name)
            if stage.config.batch_size < self.recipe.stages[name].batch_size:
                self.display.say(
                    f"The batch of stage {name} was capped at {counted(stage.config.batch_size, 'image')}."
                )
            if sum(row.parameters for row in stage.plan.rows) > SMALL:
                world = self.process.world_size
                needed = step_memory(
                    stage.encoder, stage.objective, stage.plan, stage.config, stage.engine, self.process.device, world
                )
                warning = memory_warning(name, needed, self.process.device)
                if warning:
                    self.display.say(warning)
            # Counted by one process alone: tensors without content cannot be exchanged.
            alone = self.process.world_size == 1
            flops = step_flops(stage.encoder, stage.objective, stage.config) if alone else None
            self.loop(stage)
            if stage.guard is not None:
                self.display.say(stage.guard.summary(name)["sentence"])
            with together():
                if self.process.is_first:
                    trunk = {} if stage.config.branch is None else {"branch": stage.config.branch}
                    save_stage(stage, self.provenance(name) | {"step": stage.kept_step} | trunk, flops)
                    write_contents(self.out / IMAGES, self.contents)
        elif trained_on(str(directory)) not in (None, self.images):
            raise UserError(
                f"The images of {self.recipe.data.source!r} are not those that stage {name!r} was trained on: "
                "files came or went.",
                "Restore them, or begin a run in another --out. Nothing was changed.",
            )
        elif line := other_threads(
            f"Stage {name}", read_json(directory / "plan.json").get("threads"), self.process.device
        ):
            self.display.say(line)
        self.encoder = load_encoder(directory).train()

    def loop(self, stage: StageRun) -> None:
        """Train a prepared stage to its end; what counts the time of training counts it around this."""

        def snapshot(directory: Path, step: int) -> None:
            with together():
                if self.process.is_first:
                    save_weights(stage, directory, self.provenance(stage.name) | {"step": step})

        train_stage(self.process, stage, self.display.report, self.display.say, self._keep_contents, snapshot=snapshot)

    def _keep_contents(self) -> None:
        """Keep what the images hold, for a later start to compare, once those of a run that goes on were taken."""
        if self.process.is_first and not (self.out / IMAGES).is_file():
            write_contents(self.out / IMAGES, self.contents)

    def provenance(self, name: str) -> dict[str, Any]:
        return {"recipe": self.identity, "stage": name, "start": self.recipe.start, "images": self.images}

    def replay(self, recorded: State) -> None:
        """Compute the last steps of a run that diverged again, with this recipe, and say what is not finite."""
        for name in self.recipe.stages:
            if name == recorded["stage"]:
                break
            self.encoder = load_encoder(stage_directory(self.out, self.recipe, name)).train()
        else:
            raise UserError(f"The replay file is of stage {recorded['stage']!r}, which the recipe does not have.")
        lines, bad = replay_steps(Trainer(self.process, self.prepare(name)), recorded)
        for line in lines:
            self.display.say(line)
        if bad:
            raise UserError("The steps are still not finite.", "Nothing was changed.")
        self.display.say("With these settings the steps are finite. Nothing was changed.")
