"""From what is varied to arms: recipes, and the stages on the way to them that several share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from layergraft.commands.ablate.vary import Varied, Vary
from layergraft.commands.study.arms import Arm
from layergraft.commands.study.study_recipe import with_length
from layergraft.config import Recipe
from layergraft.errors import UserError, nearest

FLOORS = (
    Arm(name="random", title="random weights", floor="random", compute=False),
    Arm(name="pixels", title="pixels", floor="pixels", compute=False),
)


@dataclass(frozen=True, kw_only=True)
class VariedArm(Arm):
    """An arm that trains one stage, after those of the arms that it starts from.

    Args:
        recipe: its whole recipe with all stages, for seed 0.
        stage: the one that it trains itself.
        in_words: what is particular to it.
    """

    recipe: Recipe
    stage: str
    in_words: str


def arm_recipes(vary: Vary, load: Callable[[str | None, Mapping[str, Any]], Recipe]) -> dict[str, Recipe]:
    """Name -> whole recipe of each arm.

    Args:
        vary: what is varied.
        load: (another recipe or None, changes) -> recipe.

    Raises:
        UserError: an arm's keys make no recipe, or two arms are the same; it names arm and key.
    """
    recipes: dict[str, Recipe] = {}
    titles: dict[bytes, str] = {}
    for arm in vary.arms:
        try:
            recipe = _without(load(arm.recipe, arm.changes), arm)
        except UserError as error:
            raise UserError(f"Arm {arm.title!r}: {error.problem}", error.hint) from None
        twin = titles.setdefault(msgspec.json.encode(recipe), arm.title)
        if twin != arm.title:
            raise UserError(f"Arms {twin!r} and {arm.title!r} are the same recipe.", "Leave one of them out.")
        recipes[arm.name] = recipe
    return recipes


def _without(recipe: Recipe, arm: Varied) -> Recipe:
    for stage in arm.dropped:
        if stage not in recipe.stages:
            raise UserError(f"there is no stage {stage!r} to leave out.", nearest(stage, recipe.stages))
    stages = {name: stage for name, stage in recipe.stages.items() if name not in arm.dropped}
    if not stages:
        raise UserError("no stage is left.", "Keep one of them.")
    return structs.replace(recipe, stages=stages)


def connect(vary: Vary, recipes: Mapping[str, Recipe]) -> dict[str, Arm]:
    """All arms, with the stages on the way to their last ones: what two arms have in common stands there once.

    An arm that ends with the stage that others go on from is what they start from, with the rate that its search chose.
    At equal compute alone its length is another one, so the others have a stage of their own.
    """
    ends = {} if vary.budgets == ("compute",) else {_key(recipes[arm.name]): arm.name for arm in vary.arms}
    arms: dict[str, Arm] = {}
    waiting = sorted(vary.arms, key=lambda arm: len(recipes[arm.name].stages))  # what others start from comes first
    for varied in waiting:
        recipe = recipes[varied.name]
        first = None
        names = list(recipe.stages)
        for count in range(1, len(names)):
            part = structs.replace(recipe, stages={name: recipe.stages[name] for name in names[:count]})
            name = ends.get(_key(part)) or f"{names[count - 1]}-{_key(part)}"
            if name not in arms:
                arms[name] = VariedArm(
                    name=name, title=names[count - 1], first=first, shared=True, compute=False,
                    recipe=part, stage=names[count - 1], in_words="",
                )  # fmt: skip
            first = name
        last = names[-1]
        arms[varied.name] = VariedArm(
            name=varied.name, title=varied.title, first=first, recipe=recipe, stage=last, in_words=varied.in_words,
            encoder="encoder" if recipe.stages[last].ema is None else "encoder_ema",
        )  # fmt: skip
    order = {arm.name: number for number, arm in enumerate(vary.arms)}
    shared = [arm for arm in arms.values() if arm.shared or arm.name in {other.first for other in arms.values()}]
    rest = sorted((arm for arm in arms.values() if arm not in shared), key=lambda arm: order[arm.name])
    return {arm.name: arm for arm in (*shared, *rest, *FLOORS)}


def _key(recipe: Recipe) -> str:
    """A short name for stages and all that they start from."""
    return hashlib.blake2b(msgspec.json.encode(recipe), digest_size=4).hexdigest()


def own_stage(arm: VariedArm, seed: int, factor: float, length: float) -> Recipe:
    """The recipe of the one stage that an arm trains itself.

    Args:
        arm: which one.
        seed: of the run.
        factor: of its learning rate.
        length: of the stage, as a factor.
    """
    stage = with_length(arm.recipe.stages[arm.stage], length)
    rates = structs.replace(
        stage.optimizer, base_lr=stage.optimizer.base_lr * factor, min_lr=stage.optimizer.min_lr * factor
    )
    return structs.replace(arm.recipe, seed=seed, stages={arm.stage: structs.replace(stage, optimizer=rates)})
