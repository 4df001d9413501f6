"""What a study consists of: jobs, each of which needs what others found.

What is to be done follows from what is done: `Study.due` is a function of the outcomes so far. So a study that was
killed goes on from the files of the jobs that ended, every choice is made again in the same way, and several processes
that share a directory agree on what there is to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from layergraft.commands.study.arms import COMPUTE, Arm
from layergraft.commands.study.cost import Costs
from layergraft.commands.study.settings import Settings
from layergraft.commands.study.study_file import Budget, few_shot_mean
from layergraft.config import Recipe
from layergraft.runs.json_files import read_json_as

SEARCH_SEED = 0
DIVERGED = "diverged"  # in the outcome of a job that has no finite numbers: why
JobOutcome = dict[str, Any]
JobOutcomes = Mapping[str, JobOutcome]
Kind = Literal["trial", "seed", "stage", "conflict"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work.

    Args:
        name: `ARM/trial-0`, `ARM/seed-0`, `ARM/stage-0` or `ARM/conflict-0`.
        kind: train and measure on held-out images; on test images, too; train a stage that arms share; or measure the
            conflict in the run of a seed.
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


class _During(TypedDict):
    part: float
    blocks: list[_Block]


class _Outcome(TypedDict):
    identity: str
    flops: float
    seconds: float
    diverged: NotRequired[str]


class _Trial(_Outcome):
    holdout: dict[str, float]
    scores: NotRequired[dict[str, float]]


class _Seed(_Trial):
    test: dict[str, float]


class _Conflict(_Outcome):
    blocks: list[_Block]
    during: list[_During]
    lr_scale: list[float]


_KINDS: dict[Kind, type[Any]] = {"trial": _Trial, "seed": _Seed, "stage": _Outcome, "conflict": _Conflict}


def read_outcome(file: Path, kind: Kind) -> JobOutcome:
    """The outcome that a job of an earlier start left.

    Raises:
        UserError: it cannot be read, or is of another kind of job.
    """
    hint = f"Remove it, and the job {file.stem!r} is done again."
    outcome: JobOutcome = read_json_as(file, _KINDS["stage"], hint)
    if kind == "trial" or DIVERGED not in outcome:
        outcome = read_json_as(file, _KINDS[kind], hint)
    return outcome


class Study(ABC):
    """All arms, how they are searched, and the seeds that they are trained with.

    Args:
        settings: search and measurements.
        arms: name -> arm; those that others start from stand before them.
        source: the images.
        seeds: pre-training seeds, the search's among them.
        out: directory of the study.
        costs: operations of the arms.
        budgets: which comparisons there are: the arms as their recipes have them, and at equal compute. With both, an
            arm whose operations differ is trained a second time, under its name and `_compute`.
    """

    def __init__(
        self,
        settings: Settings,
        arms: Mapping[str, Arm],
        source: str,
        seeds: list[int],
        out: Path,
        costs: Costs,
        budgets: tuple[Budget, ...],
    ) -> None:
        self.settings, self.arms, self.source = settings, arms, source
        self.seeds, self.out, self.costs, self.budgets = seeds, out, costs, budgets
        self.lengths = dict.fromkeys(arms, 1.0)
        other = [arm for arm in arms.values() if arm.searched and arm.compute and not costs.same(arm)]
        if "compute" in budgets:
            behind = COMPUTE if "epochs" in budgets else ""
            self.lengths |= {arm.name + behind: costs.length(arm) for arm in other}

    @abstractmethod
    def arm_recipe(self, arm: Arm, seed: int, outcomes: JobOutcomes, factor: float, length: float) -> Recipe | None:
        """An arm's own stages as a recipe without a start; None while it is not known; of a floor, images and seed.

        Args:
            arm: which one.
            seed: of the run.
            outcomes: what is known.
            factor: of the learning rates that are searched.
            length: of the stages, as a factor.
        """

    @abstractmethod
    def in_words(self, arm: Arm, recipe: Recipe) -> str:
        """What is particular to an arm, in a few words."""

    def arm(self, name: str) -> Arm:
        """The arm of a name with or without `_compute`."""
        return self.arms[name.removesuffix(COMPUTE)]

    def budget(self, name: str) -> Literal["epochs", "compute", "both"] | None:
        """Which comparison an arm belongs to; None for a floor, which belongs to both."""
        arm = self.arm(name)
        if not arm.trained:
            return None
        if name.endswith(COMPUTE) or "epochs" not in self.budgets:
            return "compute"
        return "both" if self.costs.same(arm) else "epochs"

    def run_of(self, name: str, seed: int) -> str:
        """The job that trains an arm with a seed."""
        return f"{name}/{'stage' if self.arm(name).shared else 'seed'}-{seed}"

    def factors(self, name: str, outcomes: JobOutcomes) -> list[float]:
        """What an arm's search tries: the settings' factors, and those beyond an edge where the best one was."""
        factors = list(self.settings.factors)
        while len(factors) - len(self.settings.factors) < (self.settings.extended if len(factors) > 1 else 0):
            names = [f"{name}/trial-{number}" for number in range(len(factors))]
            if any(trial not in outcomes for trial in names):
                break
            best, in_order = factors[self._best(names, factors, outcomes)], sorted(factors)
            if best == in_order[-1]:
                factors.append(best * best / in_order[-2])
            elif best == in_order[0]:
                factors.append(best * best / in_order[1])
            else:
                break
        return factors

    def trial_names(self, name: str, outcomes: JobOutcomes) -> list[str]:
        """The jobs of an arm's search, as far as they are known; none where there is nothing to choose from."""
        known = name in self.arms and self.arms[name].searched and len(self.settings.factors) > 1
        return [f"{name}/trial-{number}" for number in range(len(self.factors(name, outcomes)))] if known else []

    def trials(self, arm: Arm, outcomes: JobOutcomes) -> list[float]:
        """What the trials of an arm reached on held-out images, the mean over shots; none while one is missing."""
        names = self.trial_names(arm.name, outcomes)
        if any(name not in outcomes for name in names):
            return []
        return [few_shot_mean(outcomes[name]["holdout"]) for name in names]

    def choice(self, arm: Arm, outcomes: JobOutcomes) -> int | None:
        """Which trial of an arm is best, the first one of equals; None while one is missing.

        Where all of them diverged it is the one with the lowest learning rate.
        """
        if len(self.settings.factors) == 1:
            return 0
        if not self.trials(arm, outcomes):
            return None
        return self._best(self.trial_names(arm.name, outcomes), self.factors(arm.name, outcomes), outcomes)

    def _best(self, trials: list[str], factors: list[float], outcomes: JobOutcomes) -> int:
        if all(DIVERGED in outcomes[trial] for trial in trials):
            return int(np.argmin(factors))
        return int(np.argmax([few_shot_mean(outcomes[trial]["holdout"]) for trial in trials]))

    def held_out(self, name: str, seeds: list[int], outcomes: JobOutcomes) -> float | None:
        """Accuracy of an arm on held-out images, over shots and seeds; None while one is missing.

        A seed that diverged counts as 0: what survives of an arm that often diverges is no reason to choose it.
        """
        names = [f"{name}/seed-{seed}" for seed in seeds]
        if any(name not in outcomes for name in names):
            return None
        reached = [0.0 if DIVERGED in outcomes[name] else few_shot_mean(outcomes[name]["holdout"]) for name in names]
        return float(np.mean(reached))

    def seeds_of(self, name: str, outcomes: JobOutcomes) -> list[int]:
        """The seeds of an arm."""
        return self.seeds

    def recipe(self, name: str, seed: int, outcomes: JobOutcomes, trial: int | None = None) -> Recipe | None:
        """What a job trains, without its start; None while it is not known.

        Args:
            name: of the arm.
            seed: of the run.
            outcomes: what is known.
            trial: number of the trial; None is the arm itself.
        """
        arm = self.arm(name)
        if not arm.searched:
            return self.arm_recipe(arm, seed, outcomes, 1.0, 1.0)
        number = self.choice(arm, outcomes) if trial is None else trial
        if number is None:
            return None
        length = self.lengths[name] if trial is None else self.settings.trial
        return self.arm_recipe(arm, seed, outcomes, self.factors(arm.name, outcomes)[number], length)

    def due(self, outcomes: JobOutcomes, running: Collection[str] = ()) -> Iterator[Job]:
        """The jobs that can be done now, the most urgent first, but for those that are done or running."""
        for name, kind, number in self.names(outcomes):
            job = f"{name}/{kind}-{number}"
            if job not in outcomes and job not in running:
                yield from self._job(job, name, kind, number, outcomes)

    def names(self, outcomes: JobOutcomes) -> Iterator[tuple[str, Kind, int]]:
        """(arm, kind, number) of every job, done or not, in the order of their urgency."""
        for name in self.lengths:
            for trial in range(len(self.trial_names(name, outcomes))):
                yield name, "trial", trial
            for seed in self.seeds_of(name, outcomes):
                yield name, "stage" if self.arm(name).shared else "seed", seed
            yield from self.more_names(name)

    def more_names(self, name: str) -> Iterator[tuple[str, Kind, int]]:
        """What else is to be done once an arm is trained."""
        yield from ()

    def _job(self, job: str, name: str, kind: Kind, number: int, outcomes: JobOutcomes) -> Iterator[Job]:
        """The job, if what it needs is there."""
        arm = self.arm(name)
        seed = SEARCH_SEED if kind == "trial" else number
        start = self.run_of(arm.first, seed) if arm.first else None
        needed = f"{name}/seed-{seed}" if kind == "conflict" else start
        if needed is not None and needed not in outcomes:
            return
        recipe = self.recipe(name, seed, outcomes, number if kind == "trial" else None)
        if recipe is not None:
            flops = self.costs.training(recipe) if arm.trained and kind != "conflict" else 0.0
            yield Job(name=job, kind=kind, arm=arm, recipe=recipe, start=start, flops=flops)

    def left(self, outcomes: JobOutcomes) -> list[float]:
        """Operations of each job that is left; what is not known yet is taken at its recipe's length."""
        flops = []
        for name, kind, number in self.names(outcomes):
            if f"{name}/{kind}-{number}" not in outcomes:
                length = {"trial": self.settings.trial, "conflict": 0.0}.get(kind, self.lengths[name])
                flops.append(length * self.costs.of_arm.get(name.removesuffix(COMPUTE), 0.0))
        return flops
