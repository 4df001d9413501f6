"""What a study consists of: jobs, each of which needs what others found.

What is to be done follows from what is done: `Study.due` is a function of the outcomes so far. So a study that was
killed goes on from the files of the jobs that ended, and every choice is made again in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from layergraft.commands.reproduce.accuracy import few_shot_mean
from layergraft.commands.reproduce.arms import ARMS, BUDGET, COMPUTE, CONFLICT, Arm
from layergraft.commands.reproduce.cost import Costs
from layergraft.commands.reproduce.recipes import arm_recipe
from layergraft.commands.reproduce.scales import Scale
from layergraft.config import Recipe
from layergraft.runs.json_files import read_json_as

SEARCH_SEED = 0
JobOutcome = dict[str, Any]
JobOutcomes = Mapping[str, JobOutcome]
Kind = Literal["trial", "seed", "conflict"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work.

    Args:
        name: `ARM/trial-0`, `ARM/seed-0` or `ARM/conflict-0`.
        kind: train and measure on held-out images; on test images, too; or measure the conflict in the run of a seed.
        arm: what is trained.
        recipe: with what is to be trained; of an arm without training it names images and seed.
        start: the job whose last stage the recipe starts from.
        flops: of the training.
    """

    name: str
    kind: Kind
    arm: Arm
    recipe: Recipe
    start: str | None
    flops: float


class _Block(TypedDict):
    block: int
    mean: float
    negative: float


class _Outcome(TypedDict):
    identity: str
    flops: float
    seconds: float


class _Trial(_Outcome):
    holdout: dict[str, float]


class _Seed(_Trial):
    test: dict[str, float]


class _Conflict(_Outcome):
    blocks: list[_Block]
    lr_scale: list[float]


_KINDS: dict[Kind, type[Any]] = {"trial": _Trial, "seed": _Seed, "conflict": _Conflict}


def read_outcome(file: Path, kind: Kind) -> JobOutcome:
    """The outcome that a job of an earlier start left.

    Raises:
        UserError: it cannot be read, or is of another kind of job.
    """
    outcome: JobOutcome = read_json_as(file, _KINDS[kind], f"Remove it, and the job {file.stem!r} is done again.")
    return outcome


class Study:
    """All arms at one scale.

    Args:
        scale: how large.
        source: the images.
        seeds: pre-training seeds, the search's among them.
        out: directory of the study.
        costs: operations of the arms.
    """

    def __init__(self, scale: Scale, source: str, seeds: list[int], out: Path, costs: Costs) -> None:
        self.scale = scale
        self.source = source
        self.seeds = seeds
        self.out = out
        self.costs = costs
        self.few = seeds[: scale.all_seeds]
        compute = [arm for arm in ARMS.values() if arm.recipe and not costs.same(arm)]
        self.lengths = dict.fromkeys(ARMS, 1.0) | {arm.name + COMPUTE: costs.length(arm) for arm in compute}

    @staticmethod
    def arm(name: str) -> Arm:
        """The arm of a name with or without `_compute`."""
        return ARMS[name.removesuffix(COMPUTE)]

    def trials(self, arm: Arm, outcomes: JobOutcomes) -> list[float]:
        """What the trials of an arm reached on held-out images, the mean over shots; none while one is missing."""
        names = [f"{arm.name}/trial-{number}" for number in range(len(self.scale.factors))]
        if any(name not in outcomes for name in names):
            return []
        return [few_shot_mean(outcomes[name]["holdout"]) for name in names]

    def choice(self, arm: Arm, outcomes: JobOutcomes) -> int | None:
        """Which trial of an arm is best, the first one of equals; None while one is missing."""
        accuracies = self.trials(arm, outcomes)
        return int(np.argmax(accuracies)) if accuracies else None

    def chosen_graft(self, outcomes: JobOutcomes) -> str | None:
        """The graft that is best on held-out images, over the seeds that every arm has; None until that is known."""
        means = {}
        for arm in (arm for arm in ARMS.values() if arm.graft):
            names = [f"{arm.name}/seed-{seed}" for seed in self.few]
            if any(name not in outcomes for name in names):
                return None
            means[arm.name] = float(np.mean([few_shot_mean(outcomes[name]["holdout"]) for name in names]))
        return max(means, key=lambda name: means[name])

    def seeds_of(self, name: str, outcomes: JobOutcomes) -> list[int]:
        """The seeds of an arm: all, for parents, untrained arms and the chosen graft; else those that every arm has."""
        everything = not self.arm(name).parents or name == self.chosen_graft(outcomes)
        return self.seeds if everything else self.few

    def suggestion(self, outcomes: JobOutcomes) -> list[float] | None:
        """A learning-rate scale for each block, from the conflict with the search's seed; None until it is measured."""
        conflict = outcomes.get(f"{CONFLICT}/conflict-{SEARCH_SEED}")
        return None if conflict is None else list(conflict["lr_scale"])

    def recipe(self, name: str, seed: int, outcomes: JobOutcomes, trial: int | None = None) -> Recipe | None:
        """What a job trains, without its start; None while it is not known.

        Args:
            name: of the arm.
            seed: of the run.
            outcomes: what is known.
            trial: number of the trial; None is the arm itself.
        """
        arm = self.arm(name)
        number = self.choice(arm, outcomes) if trial is None else trial
        lr_scale = self.suggestion(outcomes) if arm.suggested else None
        if number is None or (arm.suggested and lr_scale is None):
            return None
        length = self.lengths[name] if trial is None else self.scale.trial
        factor = self.scale.factors[number]
        return arm_recipe(arm, self.scale, self.source, seed, factor=factor, length=length, lr_scale=lr_scale)

    def due(self, outcomes: JobOutcomes, running: Collection[str] = ()) -> Iterator[Job]:
        """The jobs that can be done now, the most urgent first, but for those that are done or running."""
        for name, kind, number in self.names(outcomes):
            job = f"{name}/{kind}-{number}"
            if job not in outcomes and job not in running:
                yield from self._job(job, name, kind, number, outcomes)

    def names(self, outcomes: JobOutcomes) -> Iterator[tuple[str, Kind, int]]:
        """(arm, kind, number) of every job, done or not, in the order of their urgency."""
        for name in self.lengths:
            if self.arm(name).recipe is not None and name in ARMS:
                for trial in range(len(self.scale.factors)):
                    yield name, "trial", trial
            for seed in self.seeds_of(name, outcomes):
                yield name, "seed", seed
            if name == CONFLICT:
                for seed in self.few:
                    yield name, "conflict", seed

    def _job(self, job: str, name: str, kind: Kind, number: int, outcomes: JobOutcomes) -> Iterator[Job]:
        """The job, if what it needs is there."""
        arm = self.arm(name)
        seed = SEARCH_SEED if kind == "trial" else number
        start = f"{arm.first}/seed-{seed}" if arm.first else None
        needed = f"{name}/seed-{seed}" if kind == "conflict" else start
        if needed is not None and needed not in outcomes:
            return
        if arm.recipe is None:  # images, seed and the encoder's first weights
            recipe: Recipe | None = arm_recipe(ARMS["mae"], self.scale, self.source, seed)
        else:
            recipe = self.recipe(name, seed, outcomes, number if kind == "trial" else None)
        if recipe is not None:
            flops = self.costs.training(recipe) if arm.recipe and kind != "conflict" else 0.0
            yield Job(name=job, kind=kind, arm=arm, recipe=recipe, start=start, flops=flops)

    def left(self, outcomes: JobOutcomes) -> list[float]:
        """Operations of each job that is left; what is not known yet is taken at its recipe's length."""
        flops = []
        for name, kind, number in self.names(outcomes):
            if f"{name}/{kind}-{number}" not in outcomes:
                length = {"trial": self.scale.trial, "seed": self.lengths[name], "conflict": 0.0}[kind]
                flops.append(length * self.costs.of_arm.get(name.removesuffix(COMPUTE), 0.0))
        if self.chosen_graft(outcomes) is None:
            flops += [self.costs.of_arm[BUDGET[-1]]] * (len(self.seeds) - len(self.few))
        return flops
