"""What is said about a study: accuracies over seeds, paired differences, and the numbers that they came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from layergraft.commands.study.formatting import MEAN
from layergraft.commands.study.statistics import Effect, Interval, family, interval, paired
from layergraft.commands.study.study_file import Budget, MeasuredArm, MeasuredStudy

Values = Callable[[MeasuredArm], dict[int, float]]
Pairs = Sequence[tuple[MeasuredArm, MeasuredArm]]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Test accuracy of an arm, in percent, over seeds."""

    arm: str
    column: str
    accuracy: Interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One arm minus another, paired by seed; one family for each column of a budget."""

    budget: Budget
    arm: str
    against: str
    column: str
    difference: Effect


@dataclass(frozen=True, kw_only=True)
class Words:
    """How tables and charts of one kind of study speak.

    Args:
        mark: what the reference is called behind its title.
        differences: what is subtracted from what, with `{}` for the reference's title.
        ahead: the axis of differences.
        side: what lies right of 0.
        chosen: what is chosen on held-out images.
        at: what the arms have in common.
    """

    mark: str
    differences: str
    ahead: str
    side: str
    chosen: str
    at: Mapping[Budget, str]


@dataclass(frozen=True, kw_only=True)
class Outcome(ABC):
    """What is said about any study.

    Args:
        accuracies: of every arm.
        differences: of all arms from one, or of one from all others.
    """

    words: ClassVar[Words]

    accuracies: list[Accuracy]
    differences: list[Difference]

    @property
    @abstractmethod
    def measured(self) -> MeasuredStudy:
        """What all of it was computed from."""

    @property
    @abstractmethod
    def reference(self) -> str:
        """The arm that stands on one side of every difference."""

    @property
    @abstractmethod
    def highlighted(self) -> dict[str, str]:
        """Arms that charts set apart, and how: the most important one last."""

    @property
    def facts(self) -> dict[str, str]:
        """What else is to be known of the study."""
        return {}

    def accuracy(self, arm: str, column: str) -> Interval | None:
        """What an arm reached in a column."""
        return next((row.accuracy for row in self.accuracies if (row.arm, row.column) == (arm, column)), None)

    @abstractmethod
    def other(self, row: Difference) -> str:
        """The arm of a difference that is not the reference."""

    def title_of(self, name: str) -> str:
        """An arm as readers know it."""
        return next(arm.title for arm in self.measured.arms if arm.name == name)


def few_shot(arm: MeasuredArm, study: MeasuredStudy) -> dict[int, float]:
    """Seed -> accuracy averaged over the numbers of images per class."""
    columns = [arm.by_seed(column) for column in study.few_shots]
    seeds = set.intersection(*(set(column) for column in columns)) if columns else set()
    return {seed: float(np.mean([accuracies[seed] for accuracies in columns])) for seed in seeds}


def columns_of(study: MeasuredStudy) -> dict[str, Values]:
    """Column -> how an arm's values are read; the mean over numbers of shots first."""

    def column(name: str) -> Values:
        return lambda arm: arm.by_seed(name)

    return {MEAN: lambda arm: few_shot(arm, study)} | {name: column(name) for name in study.columns}


def accuracies_of(study: MeasuredStudy) -> list[Accuracy]:
    """Every arm in every column in which it was measured."""
    accuracies = []
    for arm in study.arms:
        for column, values in columns_of(study).items():
            by_seed = values(arm)
            if by_seed:
                accuracies.append(Accuracy(arm=arm.name, column=column, accuracy=interval(by_seed)))
    return accuracies


def differences_of(budget: Budget, pairs: Pairs, columns: dict[str, Values]) -> list[Difference]:
    """First minus second of each pair in each column, uncorrected; without pairs that have no seed in common."""
    rows = []
    for column, values in columns.items():
        for first, second in pairs:
            effect = None if first is second else paired(values(first), values(second))
            if effect is not None:
                names = {"arm": first.name, "against": second.name}
                rows.append(Difference(budget=budget, **names, column=column, difference=effect))
    return rows


def one_family(rows: list[Difference]) -> list[Difference]:
    """The same differences, corrected for all of them."""
    tests = family([row.difference for row in rows])
    return [replace(row, difference=test) for row, test in zip(rows, tests, strict=True)]


def families(study: MeasuredStudy, budget: Budget, pairs: Pairs) -> list[Difference]:
    """First minus second of each pair in each column; the pairs of a column are one family."""
    differences: list[Difference] = []
    for column, values in columns_of(study).items():
        differences += one_family(differences_of(budget, pairs, {column: values}))
    return differences
