"""Carry out one job of a study."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs

from layergraft.analysis.conflict import measure as cosines_of
from layergraft.analysis.run import build_subject
from layergraft.analysis.suggest import suggested_scales
from layergraft.commands.study.accuracy import SeedImages, few_shots, few_views
from layergraft.commands.study.jobs import DIVERGED, Job, JobOutcome, read_outcome
from layergraft.commands.study.settings import Settings
from layergraft.commands.train import train_run
from layergraft.config import Recipe, dump_recipe
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import NonFiniteFeatures
from layergraft.graft.donors import first_encoder
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.layout import last_stage, snapshot_directory, stage_directory
from layergraft.runs.lock import locked_or_not
from layergraft.runs.metrics import read_metrics
from layergraft.training.divergence import Diverged


def identity(job: Job, settings: Settings) -> str:
    """Changes with anything that decides the outcome of a job, but not with where the study lies."""
    recipe = structs.replace(job.recipe, data=structs.replace(job.recipe.data, workers=0))
    measured = (settings.choose, settings.labelled, settings.scores)
    usual = (job.kind, job.start, dump_recipe(recipe), repr(settings.evaluate), settings.trained)
    is_usual = measured == ("held_out", True, False) or job.kind in ("stage", "conflict")
    decides = usual if is_usual else (*usual, measured, repr(settings.view))
    return hashlib.blake2b(repr(decides).encode(), digest_size=8).hexdigest()


def outcome_file(out: Path, job: str) -> Path:
    """Where the outcome of a job goes."""
    return out / "outcomes" / f"{job}.json"


def known_outcome(job: Job, settings: Settings, out: Path) -> JobOutcome:
    """What a job has found that was done before, or by another process.

    Raises:
        UserError: it was another job, or its file is damaged.
    """
    file = outcome_file(out, job.name)
    outcome = read_outcome(file, job.kind)
    if outcome["identity"] != identity(job, settings):
        raise UserError(
            f"{str(file)!r} was found with other settings, or by another version of layergraft.",
            "Use another --out. Nothing was changed.",
        )
    return outcome


def job_lock(out: Path, job: str) -> Path:
    """The directory that whoever does a job holds; not one in another, of which the outer one would be left."""
    return out / "locks" / job.replace("/", ".")


def run_job(job: Job, settings: Settings, out: Path) -> JobOutcome | None:
    """Train and measure, or go on with it; the outcome goes to `out/outcomes/NAME.json`.

    Args:
        job: what is to be done.
        settings: what is measured.
        out: directory of the study.

    Returns:
        `holdout` and `test` (of a seed), the `blocks` and `lr_scale` of the conflict, or `diverged`, a sentence;
        `seconds`, `flops`. None where another process is at it: its lock ends with it, however that ends.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: it cannot be done.
    """
    began, run, file = time.perf_counter(), out / "runs" / job.name, outcome_file(out, job.name)
    with SignalGuard(), locked_or_not(job_lock(out, job.name), announce) as mine:
        if not mine:
            return None
        if file.is_file():  # it was done since somebody looked
            return known_outcome(job, settings, out)
        outcome = _carried_out(job, settings, run, out)
        outcome |= {"identity": identity(job, settings), "flops": job.flops, "seconds": time.perf_counter() - began}
        write_text(file, json.dumps(outcome, indent=1) + "\n")
        if job.kind == "trial":
            shutil.rmtree(run, ignore_errors=True)
        if DIVERGED not in outcome:  # what diverged can be looked into
            for checkpoints in list(run.rglob("checkpoints")):  # three times the encoder, of no use any more
                shutil.rmtree(checkpoints, ignore_errors=True)
    return outcome


def forget(job: str, out: Path) -> None:
    """Have a job done again from its beginning, unless another process is at it."""
    with locked_or_not(job_lock(out, job), announce) as mine:
        if mine:
            shutil.rmtree(out / "runs" / job, ignore_errors=True)
            outcome_file(out, job).unlink(missing_ok=True)


def _carried_out(job: Job, settings: Settings, run: Path, out: Path) -> JobOutcome:
    if job.start is not None and (start := start_diverged(job.start, out)):
        trial = {"holdout": _nothing(settings)} if job.kind == "trial" else {}
        return trial | {DIVERGED: start}
    try:
        return _done(job, settings, run, out)
    except (Diverged, NonFiniteFeatures) as error:
        if job.kind == "trial":  # a rate too high is an answer of the search
            return {"holdout": _nothing(settings), DIVERGED: error.problem}
        if not settings.goes_on:
            raise
        return {DIVERGED: error.problem}


def start_diverged(start: str, out: Path) -> str | None:
    """Why a job has nothing to start from; None where it has."""
    file = outcome_file(out, start)
    diverged = file.is_file() and DIVERGED in read_outcome(file, "stage")
    return f"{start}, from which it starts, diverged." if diverged else None


def _nothing(settings: Settings) -> dict[str, float]:
    return dict.fromkeys(map(str, _few(settings)), 0.0)


def _few(settings: Settings) -> tuple[int, ...]:
    return few_views(settings.evaluate) if settings.choose == "label_free" else few_shots(settings.evaluate)


def _done(job: Job, settings: Settings, run: Path, out: Path) -> JobOutcome:
    if job.kind == "conflict":
        return _conflict(job, out)
    if job.kind == "stage":
        _train(job, run, out)
        return {}
    return _measure(job, settings, run, out)


def _measure(job: Job, settings: Settings, run: Path, out: Path) -> JobOutcome:
    images = SeedImages(job.recipe, labelled=settings.labelled)
    encoder = _encoder(job, images, run, out)
    check()
    outcome: JobOutcome = {}
    if job.kind == "trial" and settings.choose == "held_out":
        config = structs.replace(settings.evaluate, protocols=("logistic",), shots=_few(settings))
        outcome |= images.frozen(encoder, config, test=False)
    elif job.kind == "seed" and settings.labelled:
        outcome |= images.frozen(encoder, settings.evaluate, test=True)
        if encoder is not None and settings.trained:
            outcome["test"] |= images.trained(encoder, settings, run)
    if settings.choose == "label_free":  # in place of accuracy with labels
        test = job.kind == "seed" and not settings.labelled
        outcome |= images.without_labels(encoder, settings.evaluate, settings.view, test=test)
    if settings.scores and encoder is not None:
        outcome["scores"] = images.scores(encoder, settings.view) | _loss(job, run)
    return outcome


def _loss(job: Job, run: Path) -> dict[str, float]:
    """Training loss at the end of the last stage, the mean of its last fifth; nothing of what has not trained."""
    if job.arm.floor is not None:
        return {}
    last = stage_directory(run, job.recipe, list(job.recipe.stages)[-1])
    losses = [row["loss"] for row in read_metrics(last / "metrics.jsonl") if "loss" in row]
    return {"loss": float(np.mean(losses[-max(1, len(losses) // 5) :]))} if losses else {}


def _encoder(job: Job, images: SeedImages, run: Path, out: Path) -> Encoder | None:
    """What is measured, trained if need be; None is the pixels."""
    recipe = job.recipe
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if job.arm.floor == "pixels":
        return None
    if job.arm.floor == "random":
        return first_encoder(recipe, images.data.mean, images.data.std).eval().to(device)
    _train(job, run, out)
    last = stage_directory(run, recipe, list(recipe.stages)[-1])
    return load_encoder(last / job.arm.encoder).eval().to(device)


def _train(job: Job, run: Path, out: Path) -> None:
    recipe = job.recipe
    if job.start is not None:
        recipe = structs.replace(recipe, start=str(last_stage(out / "runs" / job.start).resolve()))
    train_run(recipe, run, "auto")


def _conflict(job: Job, out: Path) -> JobOutcome:
    """In the encoder that a seed ended with, and in the snapshots on the way to it."""
    run, recipe = out / "runs" / job.name.replace("conflict", "seed"), job.recipe
    name, stage = list(recipe.stages.items())[-1]
    directory = stage_directory(run, recipe, name)
    during = [
        {"part": part, "blocks": _conflict_of(snapshot_directory(directory, part), recipe)} for part in stage.snapshots
    ]
    blocks = _conflict_of(run, recipe)
    scales = suggested_scales([block["negative"] for block in blocks])
    return {"blocks": blocks, "during": during, "lr_scale": scales}


def _conflict_of(encoder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Mean cosine of each block, and its share of images with a negative one."""
    assert recipe.data.source is not None
    cosines, _ = cosines_of(build_subject(str(encoder), [], recipe.data.source))
    shares = (cosines < 0).double().mean(0).tolist()
    return [
        {"block": block, "mean": mean, "negative": share}
        for block, (mean, share) in enumerate(zip(cosines.mean(0).tolist(), shares, strict=True))
    ]
