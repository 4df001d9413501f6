"""The study of what a file varies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from layergraft.commands.ablate.arms import VariedArm, own_stage
from layergraft.commands.ablate.vary import Vary
from layergraft.commands.study.arms import Arm
from layergraft.commands.study.cost import Costs
from layergraft.commands.study.jobs import JobOutcomes, Study
from layergraft.commands.study.settings import Settings
from layergraft.commands.study.study_json import study_record
from layergraft.config import Recipe
from layergraft.errors import UserError


class Ablation(Study):
    """All arms of a file.

    Args:
        vary: what is varied.
        arms: name -> arm, with the stages that they share.
        recipe: of what is measured untrained.
        settings: search and measurements.
        seeds: pre-training seeds, the search's among them.
        out: directory of the study.
        images: how many of them train.
    """

    def __init__(
        self,
        vary: Vary,
        arms: dict[str, Arm],
        recipe: Recipe,
        settings: Settings,
        seeds: list[int],
        out: Path,
        images: int,
    ) -> None:
        assert recipe.data.source is not None
        costs = Costs(arms, vary.reference, lambda arm, length: own_stage(cast(VariedArm, arm), 0, 1.0, length), images)
        super().__init__(settings, arms, recipe.data.source, seeds, out, costs, vary.budgets)
        self.floor = recipe
        for name, length in self.lengths.items():
            if length <= 0:
                raise UserError(
                    f"Arm {self.arm(name).title!r} cannot be trained at equal compute: the stages before its last one "
                    f"take more operations than {arms[vary.reference].title!r} in all.",
                    "Choose a longer `reference`, or `equal: epochs`.",
                )

    def arm_recipe(self, arm: Arm, seed: int, outcomes: JobOutcomes, factor: float, length: float) -> Recipe | None:
        if not arm.trained:
            return own_stage(_floor(self.floor), seed, 1.0, 1.0)
        return own_stage(cast(VariedArm, arm), seed, factor, length)

    def in_words(self, arm: Arm, recipe: Recipe) -> str:
        return cast(VariedArm, arm).in_words

    def best(self, outcomes: JobOutcomes) -> str:
        """The arm that is best on held-out images, over all seeds."""
        reached = {
            name: self.held_out(name, self.seeds, outcomes)
            for name in self.lengths
            if self.arm(name).searched and name in self.arms
        }
        return max(reached, key=lambda name: reached[name] or 0.0)

    def record(self, outcomes: JobOutcomes) -> dict[str, Any]:
        """The parts of `study.json` that the outcomes decide."""
        return study_record(self, outcomes) | {"best": self.best(outcomes)}


def _floor(recipe: Recipe) -> VariedArm:
    """The first stage of a recipe, for its images and its encoder's first weights."""
    return VariedArm(name="random", title="random weights", recipe=recipe, stage=next(iter(recipe.stages)), in_words="")
