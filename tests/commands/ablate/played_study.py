"""An ablation that is played with made-up outcomes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from layergraft.commands.ablate.ablation import Ablation
from layergraft.commands.ablate.arms import arm_recipes, connect
from layergraft.commands.ablate.outcome import MeasuredAblation
from layergraft.commands.ablate.vary import parse_vary
from layergraft.commands.study.jobs import Job, JobOutcome
from layergraft.commands.study.settings import Settings
from layergraft.commands.study.study_file import as_study
from layergraft.commands.study.study_recipe import study_recipe
from layergraft.config import EvaluateConfig, Recipe, load_recipe

IMAGES = 500
SCALE = "stages.graft.plan.lr_scale"
SMALL = {"encoder.embed_dim": 32, "encoder.depth": 3, "encoder.num_heads": 2, "data.holdout": 60}
PLANS: dict[str, Any] = {"arms": {"even": {}, "slow": {SCALE: [0.3, 0.3, 1]}, "mae": {"stages.graft": None}}}
LEVEL = {"even": 40.0, "slow": 44.0, "mae": 30.0, "random": 20.0, "pixels": 25.0}


@contextmanager
def operations_made_up() -> Iterator[None]:
    """Counting operations takes seconds, and `reproduce` has tests of that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layergraft.commands.study.cost.step_flops", lambda *parts: 10**6 * parts[-1].batch_size)
        yield


def load(_: str | None, changes: Any) -> Recipe:
    return study_recipe(load_recipe("fashion_paper", {**SMALL, **changes}))


def ablation(content: dict[str, Any], seeds: int = 3) -> Ablation:
    vary = parse_vary(content, "plans.yaml")
    arms = connect(vary, arm_recipes(vary, load))
    settings = Settings(evaluate=EvaluateConfig(shots=(1, 5), splits=2), factors=vary.factors)
    return Ablation(vary, arms, load(None, {}), settings, list(range(seeds)), Path("study"), IMAGES)


def found_by(job: Job, noise: int) -> JobOutcome:
    chance, test = random.Random(job.name), random.Random(f"{job.name} {noise}")
    own: JobOutcome = {"seconds": 1.0, "flops": job.flops}
    if job.kind == "stage":
        return own
    level = LEVEL[job.arm.name]
    own["holdout"] = {key: level + chance.uniform(-2, 2) for key in ("1", "5", "knn")}
    if job.kind == "seed":
        own["test"] = {key: level + test.uniform(-1, 1) for key in ("1", "5", "knn")}
    return own


def play(study: Ablation, noise: int = 0) -> tuple[dict[str, Job], dict[str, JobOutcome]]:
    jobs: dict[str, Job] = {}
    outcomes: dict[str, JobOutcome] = {}
    while job := next(study.due(outcomes), None):
        assert job.start is None or job.start in outcomes
        jobs[job.name], outcomes[job.name] = job, found_by(job, noise)
    return jobs, outcomes


def measured(study: Ablation, outcomes: dict[str, JobOutcome], content: dict[str, Any]) -> MeasuredAblation:
    head = {"recipe": "fashion_paper", "reference": "even", "budgets": list(study.budgets), "source": study.source}
    machine = {"cpu": "an abacus", "cores": 2, "threads": 1, "versions": {"python": "3.11"}}
    head |= {"seeds": study.seeds, "command": "layergraft ablate", "machine": machine, "seconds": 9.0}
    return as_study(head | study.record(outcomes), MeasuredAblation)
