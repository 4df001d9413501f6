"""Fit the lengths of a chosen recipe to a time, by a trial of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from layergraft.config.loading import load_recipe
from layergraft.config.recipe import Recipe
from layergraft.runs.run_time import RunTime
from layergraft.training.choice.choose import Choice, choose, explained, lengths, watched
from layergraft.training.choice.images import ImageSet
from layergraft.training.choice.machine import Machine
from layergraft.training.choice.start import Start
from layergraft.training.estimate import StageTrial, run_time, try_run
from layergraft.training.run_data import RunData, load_data, with_source

START = 10.0  # seconds until the first step, and after the last analysis
MEASURED = 0.35  # of the time that evaluation may take
PICTURES = 0.1  # of the training that analyses may take
SLOWER = 0.5  # of the passes that were counted on: from there on a smaller network is looked for


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A choice that was tried.

    Args:
        choice: the recipe and its reasons.
        time: of the whole run, by parts; None where a step was too large to be tried.
        data: its images.
        trials: stage -> what it costs.
    """

    choice: Choice
    time: RunTime | None
    data: RunData
    trials: Mapping[str, StageTrial]


def fitted(
    images: ImageSet, machine: Machine, minutes: float, overrides: Mapping[str, Any], start: Start | None = None
) -> Fit:
    """Choose a recipe, try it, and give its stages the lengths that fill the time.

    Args:
        images: what is trained on.
        machine: where.
        minutes: of the whole run.
        overrides: dotted key -> value, which the user has chosen instead.
        start: weights to start from, or None.

    Raises:
        UserError: an override does not fit.
    """
    speed = machine
    for _ in range(2):
        choice = choose(images, speed, minutes, start)
        recipe = load_recipe(msgspec.to_builtins(choice.recipe), overrides)
        data = load_data(recipe)
        recipe = with_source(recipe, data.train.spec)  # a range that was found is kept
        trials, feature = try_run(recipe, data)
        timed, told = _timed(recipe, data, minutes, trials, feature)
        planned, possible = choice.recipe.stages["graft"].steps, timed.stages["graft"].steps
        if told is None or start or not planned or not possible or possible > SLOWER * planned:
            break
        speed = replace(machine, gflops=machine.gflops * possible / planned)
    final = load_recipe(msgspec.to_builtins(timed), overrides)
    explanation = explained(final, images, machine, minutes, choice.wanted)
    choice = replace(explanation, notes=(*explanation.notes, *_given_up(recipe, final)))
    return Fit(choice=choice, time=told, data=data, trials=trials)


def _timed(
    recipe: Recipe, data: RunData, minutes: float, trials: dict[str, StageTrial], feature: float
) -> tuple[Recipe, RunTime | None]:
    """The same recipe with the lengths that fill the time, and what is too dear left out; and its time."""
    told = run_time(recipe, data, trials, feature)
    per_step = {name: trial.step for name, trial in trials.items() if trial.step is not None}
    if told is None or len(per_step) < len(trials):
        return recipe, None
    seconds = 60 * minutes - START
    if told.evaluation > MEASURED * seconds:
        recipe = msgspec.structs.replace(recipe, evaluate=None)
    if told.analyses > PICTURES * seconds:
        recipe = msgspec.structs.replace(recipe, analyze=recipe.analyze[:1])
    told = run_time(recipe, data, trials, feature) or told
    # What looks at held-out images take, at the lengths so far, which do not change how many there are.
    steps_alone = sum((stage.steps or 0) * per_step[name] for name, stage in recipe.stages.items())
    looks = told.training - steps_alone
    left = max(1.0, seconds - told.evaluation - told.analyses - looks)
    batch = {name: min(stage.batch_size, len(data.train)) for name, stage in recipe.stages.items()}
    steps = lengths(left, per_step, batch, len(data.train))
    stages = {
        name: msgspec.structs.replace(stage, steps=steps[name], epochs=None) for name, stage in recipe.stages.items()
    }
    recipe = watched(msgspec.structs.replace(recipe, stages=stages), len(data.train))
    return recipe, run_time(recipe, data, trials, feature)


def _given_up(before: Recipe, after: Recipe) -> tuple[str, ...]:
    """Sentences about what the time does not allow."""
    said = []
    if before.evaluate is not None and after.evaluate is None:
        said.append("Measuring few labels would take more than a third of the time: layergraft evaluate does it later.")
    if len(after.analyze) < len(before.analyze):
        said.append("Pictures are left out, which would take more than a tenth of the time: layergraft analyze.")
    return tuple(said)
