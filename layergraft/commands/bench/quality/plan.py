"""What is to be done: a function of what is done, so that a start goes on where the one before ended."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from msgspec import structs

from layergraft.config import EvaluateConfig, Recipe, dump_recipe

SHOTS = 5
SEARCH_SEED = 0
TRIAL = 1 / 3  # of the budget that a learning rate is searched for, as in a study
Kind = Literal["pilot", "floor", "trial", "point", "test"]
JobOutcome = dict[str, Any]
JobOutcomes = Mapping[str, JobOutcome]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to pre-train, or one of the floors.

    Args:
        name: in files and tables.
        kind: one of our recipes, a training loop of another package, or nothing that trains.
        recipe: what is trained; of others than recipes it names images and encoder.
        rival: which method of another package.
        rates: factors of the learning rate that are tried for each budget; a single one is taken as it is.
    """

    name: str
    kind: Literal["recipe", "rival", "floor"]
    recipe: Recipe
    rival: str = ""
    rates: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work, done by a process of one thread.

    Args:
        name: `METHOD/pilot`, `METHOD/60/rate-2` (a trial), `METHOD/60/seed-0`, `METHOD/60/seed-0.test`; of a floor
            `METHOD/seed-0`.
        kind: what a step costs; a floor; a trial of a learning rate; a training; or its test, read once at the end.
        method: whose.
        seed: of the weights, the held-out images and the order.
        ready: whether what it needs is there.
        budget: core-seconds of the training.
        rate: factor of the learning rate.
        per_step: part of the training -> core-seconds of a step, by which it is fitted to its budget.
        of: the job whose encoder is tested.
        evaluate: what is measured.
    """

    name: str
    kind: Kind
    method: Method
    seed: int
    evaluate: EvaluateConfig
    ready: bool = True
    budget: float = 0.0
    rate: float = 1.0
    per_step: Mapping[str, float] = field(default_factory=dict)
    of: str = ""

    @property
    def identity(self) -> str:
        """Changes with anything that decides the outcome, but for how fast the machine was."""
        decides = (
            self.kind,
            self.method.kind,
            self.method.rival,
            self.seed,
            self.budget,
            self.rate,
            repr(self.evaluate),
        )
        text = repr(decides) + dump_recipe(self.method.recipe)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def budget_name(budget: float) -> str:
    """As files and tables call it: `60`, `7.5`."""
    return f"{budget:g}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All methods, budgets and seeds.

    Args:
        methods: recipes, rivals and floors.
        budgets: core-seconds, ascending.
        seeds: the search's among them.
        evaluate: what is measured.
    """

    methods: Sequence[Method]
    budgets: Sequence[float]
    seeds: Sequence[int]
    evaluate: EvaluateConfig

    @property
    def trained(self) -> list[Method]:
        """The methods that train."""
        return [method for method in self.methods if method.kind != "floor"]

    @property
    def floors(self) -> list[Method]:
        """Those that do not."""
        return [method for method in self.methods if method.kind == "floor"]

    def due(self, outcomes: JobOutcomes, running: Collection[str] = ()) -> Iterator[Job]:
        """The jobs that can be done now, in turn over the methods, but for those that are done or running."""
        return (j for j in self.jobs(outcomes) if j.ready and j.name not in outcomes and j.name not in running)

    def jobs(self, outcomes: JobOutcomes) -> Iterator[Job]:
        """All jobs that are known, done or not, in the order in which they are done."""
        whole = True
        for job in self._measurements(outcomes):
            whole = whole and job is not None and job.name in outcomes
            if job is not None:
                yield job
        for method in self.methods:
            for budget, seed, name in self.points(method):
                if name not in outcomes:  # nor is a test known of what is yet to be trained
                    continue
                # Test images are looked at once nothing is left to choose or to train.
                yield Job(name=f"{name}.test", kind="test", method=method, seed=seed, budget=budget, of=name,
                          evaluate=self.evaluate, ready=whole)  # fmt: skip

    def points(self, method: Method) -> list[tuple[float, int, str]]:
        """(budget, seed, name of the job) of all that is measured of a method; a floor has the budget 0."""
        if method.kind == "floor":
            return [(0.0, seed, f"{method.name}/seed-{seed}") for seed in self.seeds]
        return [(b, seed, _name(method, b, f"seed-{seed}")) for seed in self.seeds for b in self.budgets]

    def trials(self, method: Method, budget: float) -> list[str]:
        """The jobs of a search; none where there is nothing to choose from."""
        rates = method.rates if len(method.rates) > 1 else ()
        return [_name(method, budget, f"rate-{rate:g}") for rate in rates]

    def rate(self, method: Method, budget: float, outcomes: JobOutcomes) -> float | None:
        """The factor that is best on held-out images, the first of equals; None while a trial is missing."""
        trials = self.trials(method, budget)
        if not trials:
            return method.rates[0]
        if any(name not in outcomes for name in trials):
            return None
        return method.rates[int(np.argmax([outcomes[name]["holdout"][str(SHOTS)] for name in trials]))]

    def left(self, outcomes: JobOutcomes) -> float:
        """Core-seconds of training that are left."""
        seconds = 0.0
        for method in self.trained:
            for budget in self.budgets:
                trials = [name for name in self.trials(method, budget) if name not in outcomes]
                seconds += len(trials) * TRIAL * budget
            seconds += sum(budget for budget, _, name in self.points(method) if name not in outcomes)
        return seconds

    def _measurements(self, outcomes: JobOutcomes) -> Iterator[Job | None]:
        """Everything before the tests; None stands for what another job has yet to choose."""
        for method in self.trained:
            yield Job(name=f"{method.name}/pilot", kind="pilot", method=method, seed=SEARCH_SEED,
                      evaluate=self.evaluate)  # fmt: skip
        for method in self.floors:
            for _, seed, name in self.points(method):
                yield Job(name=name, kind="floor", method=method, seed=seed, evaluate=self.evaluate)
        for budget in self.budgets:
            # Rates take turns as well: the longest of them is what every method has there.
            for number in range(max((len(method.rates) for method in self.trained), default=0)):
                for method in self.trained:
                    names = self.trials(method, budget)
                    if number < len(names):
                        yield self._trial(names[number], method, budget, method.rates[number], outcomes)
        for turn, seed in enumerate(self.seeds):
            first = turn % max(1, len(self.trained))
            for budget in self.budgets:
                for method in self.trained[first:] + self.trained[:first]:  # no method always comes first
                    yield self._point(method, budget, seed, outcomes)

    def _trial(self, name: str, method: Method, budget: float, rate: float, outcomes: JobOutcomes) -> Job | None:
        pilot = outcomes.get(f"{method.name}/pilot")
        if pilot is None:
            return None
        return Job(
            name=name, kind="trial", method=method, seed=SEARCH_SEED, budget=TRIAL * budget, rate=rate,
            per_step=pilot["per_step"], evaluate=self.evaluate,
        )  # fmt: skip

    def _point(self, method: Method, budget: float, seed: int, outcomes: JobOutcomes) -> Job | None:
        """A training, fitted by what the next smaller budget has really taken; by the pilot where there is none."""
        smaller = [other for other in self.budgets if other < budget]
        before = _name(method, smaller[-1], f"seed-{seed}") if smaller else f"{method.name}/pilot"
        rate = self.rate(method, budget, outcomes)
        if rate is None:
            return None
        name = _name(method, budget, f"seed-{seed}")
        return Job(
            name=name, kind="point", method=method, seed=seed, budget=budget, rate=rate,
            per_step=outcomes.get(before, {}).get("per_step", {}), evaluate=self.evaluate, ready=before in outcomes,
        )  # fmt: skip


def _name(method: Method, budget: float, rest: str) -> str:
    return f"{method.name}/{budget_name(budget)}/{rest}"


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe with another seed."""
    return structs.replace(recipe, seed=seed)
