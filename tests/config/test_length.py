"""The length of a stage in epochs or in steps: one of them counts, and what is set last is what happens."""

from __future__ import annotations

import pytest

from layergraft.config import dump_recipe, load_recipe
from layergraft.config.yaml_text import read_yaml
from layergraft.errors import UserError


def test_steps_are_steps_whatever_the_images() -> None:
    stage = load_recipe("fashion_paper", {"stages.mae.steps": "300", "stages.mae.warmup_steps": "20"}).stages["mae"]
    assert (stage.epochs, stage.warmup_epochs) == (None, 0)
    for steps_per_epoch in (1, 7, 1000):
        assert stage.total_steps(steps_per_epoch) == 300
        assert stage.total_warmup_steps(steps_per_epoch) == 20
        assert stage.total_epochs(steps_per_epoch) == 300 / steps_per_epoch


def test_epochs_are_passes_over_the_images() -> None:
    stage = load_recipe("fashion_paper", {"stages.mae.epochs": "2.5", "stages.mae.warmup_epochs": "0.5"}).stages["mae"]
    assert (stage.total_steps(10), stage.total_warmup_steps(10), stage.total_epochs(10)) == (25, 5, 2.5)


def test_without_a_length_a_stage_has_100_epochs() -> None:
    assert load_recipe({"stages": {"mae": {"objective": {"name": "mae"}}}}).stages["mae"].epochs == 100


@pytest.mark.parametrize(("first", "second"), [("steps", "epochs"), ("epochs", "steps")])
def test_an_override_takes_the_place_of_the_recipe_s_other_length(first: str, second: str) -> None:
    raw = {"stages": {"a-b": {"objective": {"name": "mae"}, first: 7}}}
    stage = load_recipe(raw, {f"stages.a-b.{second}": "3"}).stages["a-b"]
    assert (getattr(stage, first), getattr(stage, second)) == (None, 3)


def test_a_trained_protocol_takes_steps_too() -> None:
    changes = {"evaluate.protocols": ["linear"], "evaluate.linear.steps": "30"}
    evaluate = load_recipe("fashion_paper", changes).evaluate
    assert evaluate is not None
    assert evaluate.linear is not None
    assert (evaluate.linear.steps, evaluate.linear.epochs) == (30, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"stages.mae.steps": "3", "stages.mae.epochs": "2"},
        {"stages.mae.warmup_steps": "3", "stages.mae.warmup_epochs": "2"},
    ],
)
def test_both_at_once_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"stages\.mae.*set the other one"):
        load_recipe("fashion_paper", changes)


def test_a_complete_recipe_is_read_back() -> None:
    recipe = load_recipe("fashion_paper", {"stages.graft.steps": "300"})
    assert load_recipe(read_yaml(dump_recipe(recipe))) == recipe
