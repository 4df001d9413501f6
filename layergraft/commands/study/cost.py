"""What arms cost, counted, and the lengths at which they cost the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec import structs

from layergraft.commands.study.arms import Arm
from layergraft.config import OptimizerConfig, Recipe, StageConfig
from layergraft.encoders.vit import create_encoder
from layergraft.graft.apply import set_frozen, stage_plan
from layergraft.objectives.create import create_objective
from layergraft.training.cost import step_flops

SAME = 0.03  # operations that differ by no more than this part are the same compute


def steps_of(stage: StageConfig, images: int) -> float:
    """Optimizer steps of a stage on so many training images, not yet rounded."""
    steps_per_epoch = stage.steps_per_epoch(images)
    return stage.total_epochs(steps_per_epoch) * steps_per_epoch


class Costs:
    """Operations of every arm, the stages that it shares with others included.

    Args:
        arms: name -> arm.
        budget: the arm whose chain's operations are what equal compute means.
        recipe_of: (arm, factor of its own stages' lengths) -> the recipe of these stages.
        images: how many of them train.
    """

    def __init__(
        self, arms: Mapping[str, Arm], budget: str, recipe_of: Callable[[Arm, float], Recipe], images: int
    ) -> None:
        self.arms, self.images, self._recipe_of = arms, images, recipe_of
        self._step: dict[bytes, int] = {}
        self.of_arm = {arm.name: self._count(arm, 1.0) for arm in arms.values() if arm.trained}
        self.budget = self.total(arms[budget])

    def _count(self, arm: Arm, length: float) -> float:
        return self.training(self._recipe_of(arm, length))

    def training(self, recipe: Recipe) -> float:
        """Operations of all steps of a recipe."""
        stages = recipe.stages.items()
        return sum(max(1, round(steps_of(stage, self.images))) * self._of_step(recipe, name) for name, stage in stages)

    def _of_step(self, recipe: Recipe, name: str) -> int:
        """Operations of a step, which do not depend on rates and lengths; counting takes a second, so it is kept."""
        whole = recipe.stages[name]
        stage = structs.replace(whole, batch_size=min(whole.batch_size, self.images))
        plan = structs.replace(stage.plan, lr_scale=1.0)
        length = {"epochs": 1, "steps": None, "warmup_epochs": 0, "warmup_steps": None}
        alike = structs.replace(stage, plan=plan, optimizer=OptimizerConfig(), **length)
        key = msgspec.json.encode((recipe.encoder, alike))
        if key not in self._step:
            encoder = create_encoder(recipe.encoder, 0)
            objective = create_objective(stage.objective, encoder)
            rows, plan_table = stage_plan(stage, name, encoder, objective)
            objective.begin_stage(encoder)
            set_frozen(rows, plan_table)
            self._step[key] = step_flops(encoder, objective, stage)
        return self._step[key]

    def before(self, arm: Arm) -> float:
        """Operations of the stages that come from another arm."""
        return 0.0 if arm.first is None else self.before(self.arms[arm.first]) + self.of_arm[arm.first]

    def total(self, arm: Arm, length: float = 1.0) -> float:
        """Operations of the whole chain, the arm's own stages being `length` times as long."""
        if not arm.trained:
            return 0.0
        return self.before(arm) + (self.of_arm[arm.name] if length == 1.0 else self._count(arm, length))

    def length(self, arm: Arm) -> float:
        """The factor of its own stages' lengths at which an arm uses up the budget, but for the last step."""
        recipe = self._recipe_of(arm, 1.0)
        stages = recipe.stages.items()
        whole = sum(steps_of(stage, self.images) * self._of_step(recipe, name) for name, stage in stages)
        return (self.budget - self.before(arm)) / whole

    def same(self, arm: Arm) -> bool:
        """Whether an arm uses up the budget as it is."""
        return abs(self.total(arm) / self.budget - 1) <= SAME
