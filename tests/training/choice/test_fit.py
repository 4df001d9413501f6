"""The lengths that fill a time, from what a step was found to take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from layergraft.config.loading import load_recipe
from layergraft.training.choice.choose import MOST_EPOCHS
from layergraft.training.choice.fit import START, _lengths_given, _timed, _with_possible_shots
from layergraft.training.estimate import StageTrial, run_time
from layergraft.training.run_data import RunData, load_data

CHANGES = {"data.source": "builtin:fashion-canvas?fraction=0.01", "analyze": [], "evaluate": None}
TRIALS = {"mae": StageTrial(step=0.5, how=""), "graft": StageTrial(step=1.0, how="")}


@pytest.fixture(scope="module")
def data() -> RunData:
    return load_data(load_recipe("fashion_paper", CHANGES))


def steps_of(data: RunData, minutes: float, changes: dict[str, object]) -> tuple[int | None, int | None]:
    recipe = load_recipe("fashion_paper", CHANGES | changes)
    timed = _timed(recipe, data, minutes, TRIALS, 0.0, _lengths_given(changes))
    mae, graft = timed.stages["mae"], timed.stages["graft"]
    told = run_time(timed, data, TRIALS, 0.0)
    assert told is not None
    assert told.whole <= max(60 * minutes - START, 3)
    return mae.steps, graft.steps


def test_the_stages_share_the_time(data: RunData) -> None:
    seconds = 600 - START
    assert steps_of(data, 10, {}) == (int(0.6 * seconds / 0.5), int(0.4 * seconds / 1.0))


def test_a_length_that_is_given_leaves_its_time_to_the_others(data: RunData) -> None:
    assert steps_of(data, 10, {"stages.mae.steps": "100"}) == (100, 600 - int(START) - 50)


def test_no_time_is_one_step_and_endless_time_is_not_endless(data: RunData) -> None:
    assert steps_of(data, 0.01, {}) == (1, 1)
    mae, graft = steps_of(data, 1e6, {})
    batch = min(64, len(data.train))
    assert graft == MOST_EPOCHS * len(data.train) // batch
    assert mae is not None
    assert mae > graft / 4


@pytest.mark.parametrize("epochs", ["0.5", "3"])
def test_a_length_in_epochs_has_a_warm_up_of_its_own(epochs: str, data: RunData) -> None:
    """That of the length which was chosen before was longer than the stage."""
    changes = {"stages.mae.epochs": epochs}
    timed = _timed(load_recipe("fashion_paper", CHANGES | changes), data, 10, TRIALS, 0.0, _lengths_given(changes))
    mae = timed.stages["mae"]
    batch = min(mae.batch_size, len(data.train))
    assert mae.warmup_steps == round(0.1 * mae.total_steps(len(data.train) // batch))


@pytest.mark.parametrize("asked", [True, False])
def test_what_the_user_measures_is_measured_within_the_time(asked: bool, data: RunData) -> None:
    recipe = load_recipe("fashion_paper", CHANGES | {"evaluate": {"protocols": ["knn"]}})
    timed = _timed(recipe, data, 1, TRIALS, 100.0, frozenset(), asked)
    assert (timed.evaluate is not None) == asked


def test_no_more_labels_than_a_class_has(data: RunData) -> None:
    """Of images that are cut whole files are held out: a rare class may lose more than its share."""
    recipe = load_recipe("fashion_paper", CHANGES | {"evaluate": {"protocols": ["logistic"], "shots": [1, 5, 10]}})
    keys = [data.train.keys[data.train.selected_labels == 0][:6], data.train.keys[data.train.selected_labels != 0]]
    few = replace(data, train=data.train.subset(np.sort(np.concatenate(keys))))
    evaluate = _with_possible_shots(recipe, few).evaluate
    assert evaluate is not None
    assert evaluate.shots == (1, 5)
