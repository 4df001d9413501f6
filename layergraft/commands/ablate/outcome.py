"""What is said about an ablation: every arm against the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from layergraft.commands.study.formatting import MEAN
from layergraft.commands.study.outcome import Difference, Outcome, Words, accuracies_of, families
from layergraft.commands.study.statistics import LEVEL
from layergraft.commands.study.study_file import BUDGETS, Budget, MeasuredStudy
from layergraft.runs.json_files import read_json_as

FILE = "outcome.json"


@dataclass(frozen=True, kw_only=True)
class MeasuredAblation(MeasuredStudy):
    """All that `layergraft ablate` trained and measured.

    Args:
        recipe: that the arms change.
        reference: the arm that the others are compared with.
        budgets: what the arms have in common.
        best: the arm that is best on held-out images, as its recipe has it.
    """

    recipe: str
    reference: str
    budgets: list[Budget]
    best: str

    def __post_init__(self) -> None:
        """Refuse a study whose parts do not belong together; msgspec passes the error on as its own."""
        super().__post_init__()
        for name in (self.reference, self.best):
            if name not in [arm.name for arm in self.arms]:
                raise ValueError(f"{name!r} is not one of its arms")


@dataclass(frozen=True, kw_only=True)
class AblationOutcome(Outcome):
    """The outcome of an ablation.

    Args:
        study: what all of it was computed from.
    """

    words: ClassVar[Words] = Words(
        mark="reference",
        differences="Each arm, minus {}",
        ahead="points above the reference",
        side="Right of 0 an arm is ahead of the reference",
        chosen="What is best by it is named above; nothing is chosen on test images.",
        at={"epochs": "at the lengths of the recipes", "compute": "at equal compute"},
    )

    study: MeasuredAblation

    @property
    def measured(self) -> MeasuredAblation:
        return self.study

    @property
    def reference(self) -> str:
        return self.study.reference

    @property
    def highlighted(self) -> dict[str, str]:
        best, reference = self.study.best, self.study.reference
        named = {reference: f"{self.title_of(reference)} (reference)"}
        return named if best == reference else named | {best: f"{self.title_of(best)} (best on held-out images)"}

    @property
    def facts(self) -> dict[str, str]:
        return {"recipe": self.study.recipe}

    def other(self, row: Difference) -> str:
        return row.arm

    def rows(self, budget: Budget, column: str = MEAN) -> list[Difference]:
        """The differences of one table: one family."""
        return [row for row in self.differences if (row.budget, row.column) == (budget, column)]


def make_outcome(study: MeasuredAblation) -> AblationOutcome:
    """Everything that is said about an ablation."""
    differences: list[Difference] = []
    for budget in (budget for budget in BUDGETS if budget in study.budgets):
        reference = study.find(study.reference, budget)
        if reference is not None:
            trained = [arm for arm in study.taking_part(budget) if arm.budget is not None and arm is not reference]
            differences += families(study, budget, [(arm, reference) for arm in trained])
    return AblationOutcome(accuracies=accuracies_of(study), differences=differences, study=study)


def read_outcome(path: Path) -> AblationOutcome:
    """An outcome.json.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    return read_json_as(path, AblationOutcome)


def sentence(outcome: AblationOutcome, budget: Budget) -> str:
    """Which arms are better than the reference, which are worse, and how many seeds the rest would need."""
    better: list[str] = []
    worse: list[str] = []
    open_ones: list[str] = []
    for row in outcome.rows(budget):
        test, title = row.difference, outcome.title_of(row.arm)
        if test.p_holm is not None and test.p_holm < 1 - LEVEL:
            (better if test.mean > 0 else worse).append(title)
        else:
            open_ones.append(title)
    reference = outcome.title_of(outcome.reference)
    lost = [arm.title for arm in outcome.study.taking_part(budget) if arm.diverged and not arm.seeds]
    parts = [
        f"{', '.join(titles)}: {word} {reference}"
        for titles, word in ((better, "better than"), (worse, "worse than"), (open_ones, "undecided against"))
        if titles
    ]
    parts += [f"{', '.join(lost)}: diverged with every seed"] if lost else []
    return "; ".join(parts) + "." if parts else "Nothing to compare."
