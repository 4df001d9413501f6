"""What a study found, in the form of `study_file`.

An arm whose name ends in `_compute` is the arm before at equal compute: the length of its own stages is the one at
which the whole chain takes the operations that equal compute means. It has the settings, and shows the search, of the
arm at equal epochs. An arm that takes these operations as it is has budget `both`. `seconds` of a seed are those of the
start that ended it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from layergraft.commands.study.arms import Arm
from layergraft.commands.study.jobs import DIVERGED, JobOutcome, JobOutcomes, Study
from layergraft.config import Recipe


def study_record(study: Study, outcomes: JobOutcomes) -> dict[str, Any]:
    """The parts of `study.json` that the outcomes decide."""
    settings = study.settings
    protocol = msgspec.to_builtins(settings.evaluate) | {"trained": list(settings.trained)}
    protocol |= {"choose": settings.choose, "labelled": settings.labelled} if settings.choose == "label_free" else {}
    return {
        "protocol": {key: value for key, value in protocol.items() if value is not None},
        "arms": [_arm(study, name, outcomes) for name in study.lengths if not study.arm(name).shared],
    }


def _arm(study: Study, name: str, outcomes: JobOutcomes) -> dict[str, Any]:
    arm = study.arm(name)
    recipe = study.recipe(name, study.seeds[0], outcomes) if arm.trained else None
    found = {seed: outcomes[f"{name}/seed-{seed}"] for seed in study.seeds_of(name, outcomes)}
    trained = {seed: outcome for seed, outcome in found.items() if DIVERGED not in outcome}
    diverged = {str(seed): outcome[DIVERGED] for seed, outcome in found.items() if DIVERGED in outcome}
    return {
        "name": name,
        "title": arm.title,
        "parents": list(arm.parents),
        "budget": study.budget(name),
        "stages": _stages(study, arm, recipe, outcomes),
        "flops": study.costs.before(arm) + (study.costs.training(recipe) if recipe else 0.0),
        "search": _search(study, arm, outcomes),
        "plan": study.in_words(arm, recipe) if recipe else "",
        "seeds": [
            {"seed": seed} | {key: outcome[key] for key in ("test", "holdout", "seconds")} | _scores(outcome)
            for seed, outcome in trained.items()
        ],
    } | ({"diverged": diverged} if diverged else {})


def _stages(study: Study, arm: Arm, recipe: Recipe | None, outcomes: JobOutcomes) -> list[dict[str, Any]]:
    if recipe is None:
        return []
    first = []
    if arm.first is not None:
        before = study.arms[arm.first]
        first = _stages(study, before, study.recipe(arm.first, study.seeds[0], outcomes), outcomes)
    stages = [
        {
            "name": name,
            "objective": msgspec.to_builtins(stage.objective)["name"],
            "epochs": stage.total_epochs(stage.steps_per_epoch(study.costs.images)),
        }
        for name, stage in recipe.stages.items()
    ]
    return first + stages


def _search(study: Study, arm: Arm, outcomes: JobOutcomes) -> list[dict[str, Any]]:
    if not arm.trained:
        return []
    best = study.choice(arm, outcomes)
    trials: list[dict[str, Any]] = []
    for number, reached in enumerate(study.trials(arm, outcomes)):
        recipe = study.recipe(arm.name, study.seeds[0], outcomes, number)
        assert recipe is not None
        rate = list(recipe.stages.values())[-1].optimizer.base_lr
        settings = {"base_lr": rate, "factor": study.factors(arm.name, outcomes)[number]}
        outcome = outcomes[study.trial_names(arm.name, outcomes)[number]]
        trial = {"settings": settings, "holdout": reached, "chosen": number == best} | _scores(outcome)
        diverged = DIVERGED in outcome
        trials.append(trial | ({"diverged": True} if diverged else {}))
    if study.settings.extended:
        trials.sort(key=lambda trial: float(trial["settings"]["factor"]))
    return trials


def _scores(outcome: JobOutcome) -> dict[str, Any]:
    return {"scores": outcome["scores"]} if "scores" in outcome else {}
