"""Fit the lengths of a chosen recipe to a time, by a trial of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

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
    if overrides.get("engine.precision") == "auto":  # which is what is chosen
        overrides = {key: value for key, value in overrides.items() if key != "engine.precision"}
    speed = machine
    for _ in range(2):
        choice = choose(images, speed, minutes, start)
        recipe = load_recipe(msgspec.to_builtins(choice.recipe), overrides)
        data = load_data(recipe)
        recipe = with_source(recipe, data.train.spec)  # a range that was found is kept
        if "evaluate.shots" not in overrides:
            recipe = _with_possible_shots(recipe, data)
        trials, feature = try_run(recipe, data)
        given = _lengths_given(overrides)
        measures = any(key.partition(".")[0] == "evaluate" for key in overrides)
        timed = _timed(recipe, data, minutes, trials, feature, given, measures)
        planned, possible = _passes(choice.recipe), _passes(timed)
        # A length that the user has chosen says nothing of the machine.
        if start or given or not planned or not possible or possible > SLOWER * planned:
            break
        speed = replace(machine, gflops=machine.gflops * possible / planned)
    final = load_recipe(msgspec.to_builtins(timed), overrides)
    explanation = explained(final, images, machine, minutes, choice.wanted)
    choice = replace(explanation, notes=(*explanation.notes, *_given_up(recipe, final)))
    return Fit(choice=choice, time=run_time(final, data, trials, feature), data=data, trials=trials)


def _passes(recipe: Recipe) -> int:
    """Images that the contrastive stage sees, over all its steps."""
    graft = recipe.stages["graft"]
    return (graft.steps or 0) * graft.batch_size


def _with_possible_shots(recipe: Recipe, data: RunData) -> Recipe:
    """Without the numbers of labels that a class has not, of the images that are not held out."""
    if recipe.evaluate is None or recipe.evaluate.shots is None or data.train.labels is None:
        return recipe
    least = int(np.bincount(data.train.selected_labels, minlength=len(data.train.classes)).min())
    shots = tuple(many for many in recipe.evaluate.shots if not isinstance(many, int) or many <= max(1, least))
    return msgspec.structs.replace(recipe, evaluate=msgspec.structs.replace(recipe.evaluate, shots=shots))


def _lengths_given(overrides: Mapping[str, Any]) -> frozenset[str]:
    """Names of the stages whose length the user has chosen."""
    parts = [key.split(".") for key in overrides]
    return frozenset(part[1] for part in parts if part[0] == "stages" and part[2:] in (["steps"], ["epochs"]))


def _timed(
    recipe: Recipe,
    data: RunData,
    minutes: float,
    trials: dict[str, StageTrial],
    feature: float,
    given: frozenset[str],
    measures: bool = False,
) -> Recipe:
    """The same recipe with the lengths that fill the time, and what is too dear left out.

    Args:
        recipe: as it was tried.
        data: its images.
        minutes: of the whole run.
        trials: stage -> what it costs.
        feature: seconds of an image's features.
        given: stages whose length stays: the others share what is left.
        measures: whether the user has said what is measured, so that it is, however dear.
    """
    told = run_time(recipe, data, trials, feature)
    per_step = {name: trial.step for name, trial in trials.items() if trial.step is not None}
    if told is None:
        return recipe
    seconds = 60 * minutes - START
    if told.evaluation > MEASURED * seconds and not measures:
        recipe = msgspec.structs.replace(recipe, evaluate=None)
    if told.analyses > PICTURES * seconds:
        recipe = msgspec.structs.replace(recipe, analyze=recipe.analyze[:1])
    told = run_time(recipe, data, trials, feature) or told
    batch = {name: min(stage.batch_size, len(data.train)) for name, stage in recipe.stages.items()}
    alone = {
        name: stage.total_steps(stage.steps_per_epoch(len(data.train))) * per_step[name]
        for name, stage in recipe.stages.items()
    }
    # How many looks at held-out images there are does not depend on the lengths.
    looks = told.training - sum(alone.values())
    left = seconds - told.evaluation - told.analyses - looks - sum(alone[name] for name in given if name in alone)
    shared = {name: taken for name, taken in per_step.items() if name not in given}
    steps = lengths(max(1.0, left), shared, batch, len(data.train))
    stages = {
        name: msgspec.structs.replace(stage, steps=steps[name], epochs=None) if name in steps else stage
        for name, stage in recipe.stages.items()
    }
    return watched(msgspec.structs.replace(recipe, stages=stages), len(data.train))


def _given_up(before: Recipe, after: Recipe) -> tuple[str, ...]:
    """Sentences about what the time does not allow."""
    said = []
    if before.evaluate is not None and after.evaluate is None:
        said.append("Measuring few labels would take more than a third of the time: layergraft evaluate does it later.")
    if len(after.analyze) < len(before.analyze):
        said.append("Pictures are left out, which would take more than a tenth of the time: layergraft analyze.")
    return tuple(said)
