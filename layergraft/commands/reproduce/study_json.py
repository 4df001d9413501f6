"""What a study found, in the form of `study_file`.

An arm whose name ends in `_compute` is the arm before at equal compute: the length of its own stages is the one at
which the whole chain takes the operations of MAE and the graft with equal layers. It has the settings, and shows the
search, of the arm at equal epochs. An arm that takes these operations as it is has budget `both`. `seconds` of a seed
are those of the start that ended it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from layergraft.commands.reproduce.arms import ARMS, COMPUTE, CONFLICT, Arm
from layergraft.commands.reproduce.jobs import JobOutcomes, Study
from layergraft.commands.reproduce.recipes import plan_text
from layergraft.config import Recipe


def study_record(study: Study, outcomes: JobOutcomes) -> dict[str, Any]:
    """The parts of `study.json` that the outcomes decide."""
    protocol = msgspec.to_builtins(study.scale.evaluate) | {"trained": list(study.scale.trained)}
    return {
        "protocol": {key: value for key, value in protocol.items() if value is not None},
        "arms": [_arm(study, name, outcomes) for name in study.lengths],
        "chosen_graft": study.chosen_graft(outcomes),
        "conflict": [{"seed": seed, "blocks": outcomes[f"{CONFLICT}/conflict-{seed}"]["blocks"]} for seed in study.few],
    }


def _arm(study: Study, name: str, outcomes: JobOutcomes) -> dict[str, Any]:
    arm = study.arm(name)
    recipe = study.recipe(name, study.seeds[0], outcomes) if arm.recipe else None
    trained = {seed: outcomes[f"{name}/seed-{seed}"] for seed in study.seeds_of(name, outcomes)}
    return {
        "name": name,
        "title": arm.title,
        "parents": list(arm.parents),
        "budget": _budget(study, name),
        "stages": _stages(study, arm, recipe, outcomes),
        "flops": study.costs.before(arm) + (study.costs.training(recipe) if recipe else 0.0),
        "search": _search(study, arm, outcomes),
        "plan": plan_text(list(recipe.stages.values())[-1].plan) if recipe else "",
        "seeds": [
            {"seed": seed} | {key: outcome[key] for key in ("test", "holdout", "seconds")}
            for seed, outcome in trained.items()
        ],
    }


def _budget(study: Study, name: str) -> str | None:
    arm = study.arm(name)
    if arm.recipe is None:
        return None
    if name.endswith(COMPUTE):
        return "compute"
    return "both" if study.costs.same(arm) else "epochs"


def _stages(study: Study, arm: Arm, recipe: Recipe | None, outcomes: JobOutcomes) -> list[dict[str, Any]]:
    if recipe is None:
        return []
    first = []
    if arm.first is not None:
        first = _stages(study, ARMS[arm.first], study.recipe(arm.first, study.seeds[0], outcomes), outcomes)
    stages = [
        {"name": name, "objective": msgspec.to_builtins(stage.objective)["name"], "epochs": stage.epochs}
        for name, stage in recipe.stages.items()
    ]
    return first + stages


def _search(study: Study, arm: Arm, outcomes: JobOutcomes) -> list[dict[str, Any]]:
    if arm.recipe is None:
        return []
    best = study.choice(arm, outcomes)
    trials = []
    for number, reached in enumerate(study.trials(arm, outcomes)):
        recipe = study.recipe(arm.name, study.seeds[0], outcomes, number)
        assert recipe is not None
        rate = list(recipe.stages.values())[-1].optimizer.base_lr
        settings = {"base_lr": rate, "factor": study.scale.factors[number]}
        trials.append({"settings": settings, "holdout": reached, "chosen": number == best})
    return trials
