"""From an arm and a scale to the recipe of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import structs

from layergraft.commands.reproduce.arms import RecipeArm
from layergraft.commands.reproduce.scales import HOLDOUT_BY, WARMUP_CONTRASTIVE, WARMUP_MAE, Scale
from layergraft.config import JointConfig, LrScaleConfig, MaeConfig, MocoConfig, NnclrConfig, Recipe, StageConfig
from layergraft.config.loading import load_recipe
from layergraft.config.plan import FreezeBlocks


def arm_recipe(
    arm: RecipeArm,
    scale: Scale,
    source: str,
    seed: int,
    *,
    factor: float = 1.0,
    length: float = 1.0,
    lr_scale: Sequence[float] | None = None,
    start: str | None = None,
) -> Recipe:
    """An arm's own stages as a recipe that trains them and measures nothing.

    Args:
        arm: one that is trained.
        scale: encoder, lengths and changed keys.
        source: the images.
        seed: of the run.
        factor: of the learning rates.
        length: of the stages, as a factor.
        lr_scale: a learning-rate scale for each block, of an arm whose plan is suggested.
        start: the ENC that the stages start from.
    """
    assert arm.recipe is not None
    originals = load_recipe(arm.recipe, arm.changes).stages
    changes: dict[str, Any] = {
        "seed": seed,
        "start": start,
        "data.source": source,
        "data.holdout": scale.holdout,
        "data.holdout_by": HOLDOUT_BY,
        "data.workers": 0,
        "monitor.every": 0,
        "engine.keep": 1,
        "evaluate": None,
        "analyze": [],
        **scale.recipe,
        **arm.changes,
        **scale.changes,
    }
    for name in arm.stages:
        for key, value in (scale.mae if is_mim(originals[name]) else scale.contrastive).items():
            changes[f"stages.{name}.{key}"] = value
        changes |= dict(_objective_keys(f"stages.{name}.objective", originals[name].objective, scale.objectives))
    recipe = load_recipe(arm.recipe, changes)
    depth = recipe.encoder.depth
    assert depth is not None
    contrastive = sum(_epochs(originals[name]) for name in arm.stages if not is_mim(originals[name]))
    stages = {}
    for name in arm.stages:
        stage, mim = _fitted(recipe.stages[name], depth), is_mim(originals[name])
        if arm.head is not None:
            stage = structs.replace(stage, objective=_with_head(stage.objective, arm.head, scale))
        epochs = scale.mae_epochs if mim else scale.contrastive_epochs * _epochs(originals[name]) / contrastive
        if lr_scale is not None:
            plan = structs.replace(stage.plan, lr_scale=LrScaleConfig(blocks=tuple(lr_scale)))
            stage = structs.replace(stage, plan=plan)
        stages[name] = structs.replace(
            stage,
            epochs=epochs * length,
            warmup_epochs=epochs * length * (WARMUP_MAE if mim else WARMUP_CONTRASTIVE),
            optimizer=structs.replace(stage.optimizer, base_lr=stage.optimizer.base_lr * factor),
        )
    return structs.replace(recipe, stages=stages)


def _with_head(objective: Any, head: Literal["wide", "narrow"], scale: Scale) -> Any:
    """An objective whose heads end as wide as those of the other one, MoCo v3 or VICReg."""
    if head == "wide":
        width = objective.projector[0]
        projector, predictor = (*objective.projector[:-1], width), (*objective.predictor[:-1], width)
        return structs.replace(objective, projector=projector, predictor=predictor)
    usual = load_recipe("fashion_paper").stages["graft"].objective
    assert isinstance(usual, MocoConfig)
    end = scale.objectives.get("moco", {}).get("projector", usual.projector)[-1]
    return structs.replace(objective, expander=(*objective.expander[:-1], end))


def _epochs(stage: StageConfig) -> float:
    assert stage.epochs is not None, "the recipes of the study give their lengths in epochs"
    return stage.epochs


def is_mim(stage: StageConfig) -> bool:
    """Whether a stage is masked image modelling alone; all others have a contrastive loss."""
    return isinstance(stage.objective, MaeConfig)


def _objective_keys(path: str, objective: Any, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Dotted recipe keys of an objective, or of the parts of a joint one."""
    if isinstance(objective, JointConfig):
        for name, part in objective.parts.items():
            yield from _objective_keys(f"{path}.parts.{name}", part, changes)
    for key, value in changes.get(type(objective).__struct_config__.tag, {}).items():
        yield f"{path}.{key}", value


def _fitted(stage: StageConfig, depth: int) -> StageConfig:
    """A stage of a recipe of depth 6 at another depth: the frozen lower half, heads on the upper third."""
    if isinstance(stage.plan.freeze, FreezeBlocks):
        stage = structs.replace(stage, plan=structs.replace(stage.plan, freeze=FreezeBlocks(blocks=depth // 2)))
    if isinstance(stage.objective, NnclrConfig):
        upper = tuple(range(depth - depth // 3, depth))
        stage = structs.replace(stage, objective=structs.replace(stage.objective, blocks=upper))
    return stage
