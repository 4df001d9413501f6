"""Carry out one job: a pilot, a floor, a trial, a training, or its test."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from msgspec import structs

from layergraft.commands.bench.quality import recipes, rival_loop
from layergraft.commands.bench.quality.plan import SHOTS, Job, JobOutcome, Plan, with_seed
from layergraft.commands.study.accuracy import SeedImages
from layergraft.encoders.checkpoint import load_encoder, save_encoder
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import NonFiniteFeatures
from layergraft.graft.donors import first_encoder
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.json_files import read_json
from layergraft.training.divergence import Diverged


def outcome_file(out: Path, job: str) -> Path:
    """Where the outcome of a job goes."""
    return out / "outcomes" / f"{job}.json"


def run_directory(out: Path, job: str) -> Path:
    """Where it trains."""
    return out / "runs" / job


def read_outcomes(plan: Plan, out: Path) -> dict[str, JobOutcome]:
    """The outcomes that earlier starts left.

    Raises:
        UserError: one is of another recipe or rival of this name.
    """
    outcomes: dict[str, JobOutcome] = {}
    while found := [
        job for job in plan.jobs(outcomes) if job.name not in outcomes and outcome_file(out, job.name).is_file()
    ]:
        for job in found:
            outcome = read_json(outcome_file(out, job.name))
            if outcome.get("identity") != job.identity:
                raise UserError(
                    f"{str(outcome_file(out, job.name))!r} was found with another {job.method.name!r}, or other "
                    "settings.",
                    "Use another --out, or another name for the recipe's file. Nothing was changed.",
                )
            outcomes[job.name] = outcome
    return outcomes


def run_job(job: Job, out: Path) -> JobOutcome:
    """Do a job, or go on with it; its outcome goes to `out/outcomes/NAME.json`.

    Returns:
        `holdout` (and of a test `test`), `core_seconds`, `steps`, `per_step` of what trains; `seconds`, `identity`.

    Raises:
        Stopped: a signal came; everything is saved.
    """
    began, file = time.perf_counter(), outcome_file(out, job.name)
    with SignalGuard():
        if file.is_file() and (known := read_json(file)).get("identity") == job.identity:
            return known  # it was done before another rate of its search was asked for
        outcome: JobOutcome = _DO[job.kind](job, out)
        outcome |= {"identity": job.identity, "seconds": time.perf_counter() - began}
        outcome_file(out, f"{job.name}.test").unlink(missing_ok=True)  # of what was trained before under this name
        write_text(file, json.dumps(outcome, indent=1) + "\n")
        if job.kind == "trial":
            shutil.rmtree(run_directory(out, job.name), ignore_errors=True)
        for checkpoints in list(run_directory(out, job.name).rglob("checkpoints")):
            shutil.rmtree(checkpoints, ignore_errors=True)
    return outcome


def _pilot(job: Job, out: Path) -> JobOutcome:
    recipe = with_seed(job.method.recipe, job.seed)
    if job.method.kind == "rival":
        return {"per_step": rival_loop.rival_pilot(job.method.rival, SeedImages(recipe))}
    return {"per_step": recipes.pilot(recipe)}


def _floor(job: Job, out: Path) -> JobOutcome:
    images = SeedImages(with_seed(job.method.recipe, job.seed))
    return {"holdout": _few_labels(job, images, _untrained(job, images))}


def _point(job: Job, out: Path) -> JobOutcome:
    images, run = SeedImages(with_seed(job.method.recipe, job.seed)), run_directory(out, job.name)
    try:
        encoder, found = _train(job, images, run)
        check()
        found["holdout"] = _few_labels(job, images, encoder)
    except (Diverged, NonFiniteFeatures):
        if job.kind != "trial":
            raise
        return {"holdout": {str(SHOTS): 0.0}, "core_seconds": job.budget}  # a rate too high is an answer of the search
    save_encoder(encoder, run / "encoder", {})
    return found


def _train(job: Job, images: SeedImages, run: Path) -> tuple[Encoder, dict[str, Any]]:
    """Train what fits the budget, or go on with it."""
    if job.method.kind == "rival":
        steps = max(1, round(job.budget / job.per_step[rival_loop.PART]))
        return rival_loop.train_rival(job.method.rival, images, job.rate, steps, run)
    recipe = recipes.fitted(images.recipe, job.per_step, job.budget, len(images.data.train))
    return recipes.train_recipe(recipe, run)


def _test(job: Job, out: Path) -> JobOutcome:
    images = SeedImages(with_seed(job.method.recipe, job.seed))
    encoder = _untrained(job, images)
    if job.method.kind != "floor":
        encoder = load_encoder(run_directory(out, job.of) / "encoder").eval()
    return dict(images.frozen(encoder, job.evaluate, test=True))


def _untrained(job: Job, images: SeedImages) -> Encoder | None:
    """The recipe's first weights; None is the pixels."""
    if job.method.name == "pixels":
        return None
    return first_encoder(images.recipe, images.data.mean, images.data.std).eval()


def _few_labels(job: Job, images: SeedImages, encoder: Encoder | None) -> dict[str, float]:
    return images.few_labels(encoder, structs.replace(job.evaluate, protocols=("logistic",)))


_DO: dict[str, Any] = {"pilot": _pilot, "floor": _floor, "trial": _point, "point": _point, "test": _test}
