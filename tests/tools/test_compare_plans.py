"""tools/compare_plans.py: its candidates are arms of a study, and its record has the figures on held-out images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import compare_plans

    yield compare_plans
    sys.modules.pop("compare_plans")


def test_every_candidate_is_an_arm_and_is_recorded(tool: Any) -> None:
    from layergraft.commands.ablate.arms import arm_recipes
    from layergraft.commands.ablate.outcome import MeasuredAblation
    from layergraft.commands.ablate.vary import parse_vary
    from layergraft.commands.study.study_file import as_study
    from layergraft.config import load_recipe
    from layergraft.runs.json_files import read_json

    for part in ("plans", "lengths"):
        recorded = read_json(tool.RECORD)[part]
        candidates = {own["name"]: (tuple(own["epochs"]), own["plan"]) for own in recorded["candidates"]}
        vary = parse_vary(tool.arms_of(candidates), part)
        recipes = arm_recipes(vary, lambda _, changes: load_recipe("fashion_paper", changes))
        assert [recipe.stages["graft"].epochs for recipe in recipes.values()] == [c[0][1] for c in candidates.values()]
        arms = [
            {
                "name": arm.name,
                "title": arm.title,
                "budget": "epochs",
                "seeds": [
                    {"seed": seed, "test": {"1": 0.0}, "holdout": holdout, "seconds": 1.0}
                    for seed, holdout in measured(own["accuracy"])
                ],
            }
            for arm, own in zip(vary.arms, recorded["candidates"], strict=True)
        ]
        unasked = {"seed": 0, "test": {str(shots): 0.0 for shots in (1, 5, 10, 50)}, "holdout": {}, "seconds": 1.0}
        for own in arms:
            own["seeds"].append(unasked)
        head = {"source": "", "seeds": [0, 1, 2], "command": "", "machine": {}, "seconds": 1.0, "protocol": {}}
        head |= {"recipe": "", "reference": vary.reference, "budgets": ["epochs"], "best": vary.reference}
        study = as_study(head | {"arms": arms}, MeasuredAblation)
        found = tool.results_of(study, candidates, recorded["seeds"])
        for own, before in zip(found, recorded["candidates"], strict=True):
            assert own["accuracy"] == before["accuracy"]
            assert own["mean"] == pytest.approx(before["mean"])


def measured(accuracy: dict[str, list[float]]) -> list[tuple[int, dict[str, float]]]:
    return [(seed, {key: values[seed - 1] for key, values in accuracy.items()}) for seed in (1, 2)]
