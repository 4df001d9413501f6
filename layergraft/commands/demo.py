"""`layergraft demo`: the built-in recipe on built-in images, and what it is compared with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from layergraft.commands.train import train_run
from layergraft.config.loading import load_recipe
from layergraft.config.plan import PlanConfig
from layergraft.config.recipe import Recipe
from layergraft.runs.layout import Run
from layergraft.runs.report.page import write_report
from layergraft.runs.results import read_results, write_results


def run_demo(out: Path, baseline: bool) -> Run:
    """See `layergraft.demo`."""
    recipe = load_recipe("fashion_tiny")
    run = train_run(recipe, out, "auto")
    if baseline:
        train_baseline(recipe, out)
    return run


def train_baseline(recipe: Recipe, out: Path) -> None:
    """Train the contrastive loss from scratch for as many epochs; its results join those of `out`.

    The last stage of the recipe, from MoCo v3's fresh weights with the random patch projection frozen (Chen et al.,
    section 4.2), every layer at the same rate.

    Args:
        recipe: the recipe of `out`.
        out: a finished run.
    """
    last = list(recipe.stages.values())[-1]
    plan = PlanConfig(freeze=("patch_embed", "positions"), weight_decay_1d=last.plan.weight_decay_1d)
    stages = {"scratch": msgspec.structs.replace(last, plan=plan)}
    encoder = msgspec.structs.replace(recipe.encoder, weight_init="moco")
    scratch = train_run(msgspec.structs.replace(recipe, encoder=encoder, stages=stages), out / "baseline", "auto")
    rows = [row for row in read_results(scratch.results) if row.encoder.startswith("scratch")]
    write_results(out / "results.json", rows)
    write_report([out])
