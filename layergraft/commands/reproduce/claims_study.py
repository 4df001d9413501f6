"""The study of the claims: the arms of `arms`, with few seeds for most, and the conflict that suggests a plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from layergraft.commands.reproduce.arms import ARMS, BUDGET, CONFLICT, RecipeArm
from layergraft.commands.reproduce.recipes import arm_recipe
from layergraft.commands.reproduce.scales import Scale
from layergraft.commands.study.arms import Arm
from layergraft.commands.study.cost import Costs
from layergraft.commands.study.jobs import SEARCH_SEED, JobOutcomes, Kind, Study
from layergraft.commands.study.plan_text import plan_text
from layergraft.commands.study.study_file import BUDGETS
from layergraft.commands.study.study_json import study_record
from layergraft.config import Recipe


def claims_costs(scale: Scale, source: str, images: int) -> Costs:
    """Operations of all arms, when so many images train."""
    return Costs(
        ARMS,
        BUDGET,
        lambda arm, length: arm_recipe(cast(RecipeArm, arm), scale, source, 0, length=length),
        images,
    )


class ClaimsStudy(Study):
    """All arms at one scale.

    Args:
        scale: how large.
        source: the images.
        seeds: pre-training seeds, the search's among them.
        out: directory of the study.
        costs: operations of the arms.
    """

    def __init__(self, scale: Scale, source: str, seeds: list[int], out: Path, costs: Costs) -> None:
        super().__init__(scale, ARMS, source, seeds, out, costs, BUDGETS)
        self.scale = scale
        self.few = seeds[: scale.all_seeds]

    def chosen_graft(self, outcomes: JobOutcomes) -> str | None:
        """The graft that is best on held-out images, over the seeds that every arm has; None until that is known."""
        means: dict[str, float] = {}
        for arm in (arm for arm in ARMS.values() if arm.graft):
            mean = self.held_out(arm.name, self.few, outcomes)
            if mean is None:
                return None
            means[arm.name] = mean
        return max(means, key=lambda name: means[name])

    def seeds_of(self, name: str, outcomes: JobOutcomes) -> list[int]:
        """The seeds of an arm: all, of those that claims speak of and of untrained ones; else those that all have."""
        arm = cast(RecipeArm, self.arm(name))
        everything = not arm.parents or arm.claimed or name == self.chosen_graft(outcomes)
        return self.seeds if everything else self.few

    def suggestion(self, outcomes: JobOutcomes) -> list[float] | None:
        """A learning-rate scale for each block, from the conflict with the search's seed; None until it is measured."""
        conflict = outcomes.get(f"{CONFLICT}/conflict-{SEARCH_SEED}")
        return None if conflict is None else list(conflict["lr_scale"])

    def arm_recipe(self, arm: Arm, seed: int, outcomes: JobOutcomes, factor: float, length: float) -> Recipe | None:
        own = cast(RecipeArm, arm)
        if not own.trained:  # images, seed and the encoder's first weights
            return arm_recipe(ARMS["mae"], self.scale, self.source, seed)
        lr_scale = self.suggestion(outcomes) if own.suggested else None
        if own.suggested and lr_scale is None:
            return None
        return arm_recipe(own, self.scale, self.source, seed, factor=factor, length=length, lr_scale=lr_scale)

    def in_words(self, arm: Arm, recipe: Recipe) -> str:
        return plan_text(list(recipe.stages.values())[-1].plan)

    def more_names(self, name: str) -> Iterator[tuple[str, Kind, int]]:
        if name == CONFLICT:
            for seed in self.seeds:
                yield name, "conflict", seed

    def left(self, outcomes: JobOutcomes) -> list[float]:
        flops = super().left(outcomes)
        if self.chosen_graft(outcomes) is None:
            flops += [self.costs.of_arm[BUDGET]] * (len(self.seeds) - len(self.few))
        return flops

    def record(self, outcomes: JobOutcomes) -> dict[str, Any]:
        """The parts of `study.json` that the outcomes decide."""
        return study_record(self, outcomes) | {
            "changes": dict(self.scale.changes),
            "chosen_graft": self.chosen_graft(outcomes),
            "conflict": [
                {"seed": seed} | {key: outcomes[f"{CONFLICT}/conflict-{seed}"][key] for key in ("blocks", "during")}
                for seed in self.seeds
            ],
        }
