"""How long the rest of a study takes: from the jobs that are done, or from short pieces of one before any is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from msgspec import structs

from layergraft.commands.study.jobs import DIVERGED, JobOutcome, Study
from layergraft.config import Recipe
from layergraft.training.estimate import WORTH, run_time, try_run
from layergraft.training.run_data import load_data

SOON = 10 * WORTH  # operations that are over before one could wish to know
BESIDE = 1.0  # seconds of a job beside training and measuring: images are opened, files written


def remaining_seconds(done: list[JobOutcome], left: list[float], size: int) -> float:
    """How long the jobs that are left may take: seconds of a job = a + b * its operations, by least squares.

    Args:
        done: outcomes with `seconds` and `flops`.
        left: operations of each job that is left.
        size: how many are done at a time.
    """
    done = [outcome for outcome in done if DIVERGED not in outcome] or done  # those ended before their end
    seconds, flops = np.array([o["seconds"] for o in done]), np.array([o["flops"] for o in done])
    if len(set(flops.tolist())) > 1:
        slope, base = np.polyfit(flops, seconds, 1)
        if slope > 0 and base > 0:
            return float(sum(base + slope * operations for operations in left)) / size
    return float(seconds.mean()) * len(left) / size


def told_seconds(study: Study, recipe: Recipe, outcomes: dict[str, JobOutcome], size: int) -> float | None:
    """How long a study takes from here, before it begins; None where it is over soon, or nothing could be tried.

    Args:
        study: what is to be done.
        recipe: stages of an arm, whose pieces are tried.
        outcomes: of earlier starts; where there are some, they tell.
        size: how many jobs are done at a time.
    """
    left = study.left(outcomes)
    if len({outcome["flops"] for outcome in outcomes.values()}) > 1:
        return remaining_seconds(list(outcomes.values()), left, size)
    if sum(left) < SOON:
        return None
    recipe = structs.replace(recipe, evaluate=study.settings.evaluate)
    data = load_data(recipe)
    with _one_thread():
        told = run_time(recipe, data, *try_run(recipe, data))
    if told is None:
        return None
    rate = told.training / study.costs.training(recipe)
    return float(sum(operations * rate + told.evaluation + BESIDE for operations in left)) / size


@contextmanager
def _one_thread() -> Iterator[None]:
    """As the jobs have it, where there is no GPU."""
    before = torch.get_num_threads()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
