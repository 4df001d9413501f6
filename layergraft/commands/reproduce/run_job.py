"""Carry out one job of a study."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import torch
from msgspec import structs

from layergraft.analysis.conflict import measure as cosines_of
from layergraft.analysis.run import build_subject
from layergraft.analysis.suggest import suggested_scales
from layergraft.commands.reproduce.accuracy import SeedImages
from layergraft.commands.reproduce.jobs import Job, JobOutcome
from layergraft.commands.reproduce.scales import Scale
from layergraft.commands.train import train_run
from layergraft.config import dump_recipe
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import NonFiniteFeatures
from layergraft.graft.donors import first_encoder
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.layout import last_stage, stage_directory
from layergraft.training.divergence import Diverged


def identity(job: Job, scale: Scale) -> str:
    """Changes with anything that decides the outcome of a job, but not with where the study lies."""
    settings = (job.kind, job.start, dump_recipe(job.recipe), repr(scale.evaluate), scale.trained)
    return hashlib.blake2b(repr(settings).encode(), digest_size=8).hexdigest()


def run_job(job: Job, scale: Scale, out: Path) -> JobOutcome:
    """Train and measure, or go on with it; the outcome goes to `out/outcomes/NAME.json`.

    Args:
        job: what is to be done.
        scale: what is measured.
        out: directory of the study.

    Returns:
        `holdout` and `test` (of a seed), or the `blocks` and `lr_scale` of the conflict; `seconds`, `flops`.

    Raises:
        Stopped: a signal came; everything is saved.
    """
    began, run = time.perf_counter(), out / "runs" / job.name
    with SignalGuard():
        outcome = _conflict(job, out) if job.kind == "conflict" else _measure(job, scale, run, out)
        outcome |= {"identity": identity(job, scale), "flops": job.flops, "seconds": time.perf_counter() - began}
        write_text(out / "outcomes" / f"{job.name}.json", json.dumps(outcome, indent=1) + "\n")
    if job.kind == "trial":
        shutil.rmtree(run, ignore_errors=True)
    for checkpoints in list(run.rglob("checkpoints")):  # three times the encoder, of no use any more
        shutil.rmtree(checkpoints, ignore_errors=True)
    return outcome


def _measure(job: Job, scale: Scale, run: Path, out: Path) -> JobOutcome:
    images = SeedImages(job.recipe)
    few = tuple(shots for shots in scale.evaluate.frozen_shots if isinstance(shots, int))
    try:
        encoder = _encoder(job, images, run, out)
        check()
        if job.kind == "trial":
            config = structs.replace(scale.evaluate, protocols=("logistic",), shots=few)
            return dict(images.frozen(encoder, config, test=False))
    except (Diverged, NonFiniteFeatures):
        if job.kind != "trial":
            raise
        return {"holdout": {str(shots): 0.0 for shots in few}}  # a rate too high is an answer of the search
    outcome: JobOutcome = dict(images.frozen(encoder, scale.evaluate, test=True))
    if encoder is not None and scale.trained:
        outcome["test"] |= images.trained(encoder, scale.trained, run)
    return outcome


def _encoder(job: Job, images: SeedImages, run: Path, out: Path) -> Encoder | None:
    """What is measured, trained if need be; None is the pixels."""
    recipe = job.recipe
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if job.arm.name == "pixels":
        return None
    if job.arm.recipe is None:
        return first_encoder(recipe, images.data.mean, images.data.std).eval().to(device)
    if job.start is not None:
        recipe = structs.replace(recipe, start=str(last_stage(out / "runs" / job.start).resolve()))
    train_run(recipe, run, "auto")
    last = stage_directory(run, recipe, list(recipe.stages)[-1])
    return load_encoder(last / job.arm.encoder).eval().to(device)


def _conflict(job: Job, out: Path) -> JobOutcome:
    run = out / "runs" / job.name.replace("conflict", "seed")
    assert job.recipe.data.source is not None
    cosines, _ = cosines_of(build_subject(str(run), [], job.recipe.data.source))
    shares = (cosines < 0).double().mean(0).tolist()
    blocks = [
        {"block": block, "mean": mean, "negative": share}
        for block, (mean, share) in enumerate(zip(cosines.mean(0).tolist(), shares, strict=True))
    ]
    return {"blocks": blocks, "lr_scale": suggested_scales(shares)}
