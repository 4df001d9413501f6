"""study.json: what a study trained and measured, before any statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from layergraft.commands.study.arms import COMPUTE
from layergraft.errors import UserError
from layergraft.runs.json_files import read_json_as

FILE = "study.json"
Budget = Literal["epochs", "compute"]
_HINT = f"{FILE} is written by `layergraft ablate` or `reproduce`."
BUDGETS: tuple[Budget, ...] = ("epochs", "compute")
Choose = Literal["held_out", "label_free"]


def few_shot_mean(accuracies: Mapping[str, float]) -> float:
    """What everything is chosen by: the mean over the numbers of labelled images a class, or of views of an image."""
    few = [value for key, value in accuracies.items() if key.isdigit()]
    return sum(few) / len(few)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of an arm's search.

    Args:
        settings: what was varied.
        holdout: accuracy on held-out images that it was judged by, in percent.
        chosen: whether the arm was trained with it.
        diverged: whether it had no finite numbers, and counts as 0.
        scores: of its encoder that need no label, where they were measured.
    """

    settings: dict[str, Any]
    holdout: float
    chosen: bool
    diverged: bool = False
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MeasuredSeed:
    """An arm trained with one seed.

    Args:
        seed: of pre-training.
        test: column (`"1"`, `"1%"`, …, `"knn"`) -> top-1 accuracy in percent, random splits averaged.
        holdout: the same on held-out images.
        seconds: training and measuring.
        scores: of its encoder that need no label, where they were measured.
    """

    seed: int
    test: dict[str, float]
    holdout: dict[str, float]
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MeasuredArm:
    """One way to pre-train.

    Args:
        name: in files.
        title: for readers.
        parents: the arms that a graft is made of.
        budget: which comparison it belongs to: equal contrastive epochs, equal compute, both; None for a floor.
        stages: name, objective and epochs of each stage.
        flops: of all stages.
        search: its trials.
        plan: how its layers move, in a few words.
        seeds: its results.
        diverged: seed -> why it has none; no mean knows of them.
    """

    name: str
    title: str
    seeds: list[MeasuredSeed]
    parents: list[str] = field(default_factory=list)
    budget: Literal["epochs", "compute", "both"] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    flops: float = 0.0
    search: list[Trial] = field(default_factory=list)
    plan: str = ""
    diverged: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Its name without what says that it was trained to equal compute."""
        return self.name.removesuffix(COMPUTE)

    def by_seed(self, column: str) -> dict[int, float]:
        """Seed -> test accuracy in a column, where it was measured."""
        return {trained.seed: trained.test[column] for trained in self.seeds if column in trained.test}

    def held_out(self, seeds: set[int]) -> float | None:
        """Accuracy on held-out images: mean over numbers of shots, then over seeds; None where one is missing."""
        reached = [few_shot_mean(trained.holdout) for trained in self.seeds if trained.seed in seeds]
        return sum(reached) / len(reached) if reached and len(reached) == len(seeds) else None


@dataclass(frozen=True, kw_only=True)
class MeasuredStudy:
    """All that a study trained and measured.

    Args:
        source: the images.
        seeds: pre-training seeds asked for; an arm may have more or fewer.
        command: makes the study again.
        machine: `training.launch.machine()`.
        seconds: of the whole study.
        protocol: of the measurements.
        arms: in the order in which they are shown.
        commit: of the package; None outside a checkout.
    """

    source: str
    seeds: list[int]
    command: str
    machine: dict[str, Any]
    seconds: float
    protocol: dict[str, Any]
    arms: list[MeasuredArm]
    commit: str | None = None

    def __post_init__(self) -> None:
        """Refuse arms of one name; msgspec passes the error on as its own."""
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"two of its arms have one name: {', '.join(names)}")

    @property
    def choose(self) -> Choose:
        """By what rates and arms were chosen."""
        return self.protocol.get("choose", "held_out")  # type: ignore[no-any-return]

    @property
    def labelled(self) -> bool:
        """Whether accuracy is that with labels of classes; else that of recognising single images by their views."""
        return bool(self.protocol.get("labelled", True))

    @property
    def tested(self) -> str:
        """What accuracies are of."""
        return "test images" if self.labelled else "views of held-out images"

    @property
    def judged(self) -> str:
        """What rates and arms are chosen on."""
        return "held-out images" if self.choose == "held_out" else "views of held-out images, without labels"

    @property
    def columns(self) -> list[str]:
        """Numbers of images per class, shares of the labels, then protocols that take all of them."""
        names = dict.fromkeys(column for arm in self.arms for seed in arm.seeds for column in seed.test)

        def order(column: str) -> tuple[int, float]:
            number = column.removesuffix("%")
            return (column.endswith("%"), float(number)) if number.isdigit() else (2, 0.0)

        return sorted(names, key=order)

    @property
    def few_shots(self) -> list[str]:
        """The columns with a number of images per class."""
        return [column for column in self.columns if column.isdigit()]

    @property
    def common_seeds(self) -> set[int]:
        """The seeds that every arm was trained with, but for arms that have none: choices between arms rest on them."""
        of_arms = [{seed.seed for seed in arm.seeds} for arm in self.arms if arm.seeds]
        return set.intersection(*of_arms) if of_arms else set()

    @property
    def searched(self) -> list[MeasuredArm]:
        """The arms that had a search of their own; at equal compute an arm takes what was found at equal epochs."""
        return [arm for arm in self.arms if arm.search and arm.name == arm.base]

    def find(self, name: str, budget: Budget) -> MeasuredArm | None:
        """The arm as it takes part in a comparison: at equal compute, the run of that length where there is one."""
        arms = {arm.name: arm for arm in self.arms}
        if budget == "compute" and name + COMPUTE in arms:
            return arms[name + COMPUTE]
        arm = arms.get(name)
        return arm if arm is not None and arm.budget in (None, "both", budget) else None

    def taking_part(self, budget: Budget) -> list[MeasuredArm]:
        """All arms of a comparison."""
        names = dict.fromkeys(arm.base for arm in self.arms)
        return [arm for name in names if (arm := self.find(name, budget)) is not None]


S = TypeVar("S", bound=MeasuredStudy)


def as_study(content: dict[str, Any], kind: type[S]) -> S:
    """Read the content of study.json.

    Raises:
        UserError: a part is missing or of the wrong kind.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"This is no study: {error}.", _HINT) from None


def is_study(directory: Path) -> bool:
    """Whether a directory holds a study.json."""
    return (directory / FILE).is_file()


def read_study(directory: Path, kind: type[S]) -> S:
    """The study.json of a directory.

    Raises:
        UserError: it cannot be read, or is no study of this kind.
    """
    return read_json_as(directory / FILE, kind, _HINT)
