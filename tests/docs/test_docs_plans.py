"""The page of plans says what the committed study says, and its statistics are right where the answer is known."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from layergraft.commands.study.ranking import TITLES, Ranking

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plans.md"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("docs_plans")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_script_makes_every_number_of_the_page_again(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "tools" / "docs_plans.py"), "--page", str(copy)], check=True)
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def study() -> dict[str, Any]:
    """Plans that are the better the faster their lowest block, in which alone the losses conflict."""
    random = np.random.default_rng(0)
    scales = {f"any {n}": np.exp(random.uniform(-3, 1, 3)).tolist() for n in range(9)} | {"ones": [1.0, 1.0, 1.0]}
    row = {
        "image_cosine": 0.1,
        "cosine": 0.1,
        "sign_agreement": 0.5,
        "norm_ratio": 2.0,
        "second_sum": 1.0,
        "fisher_ratio": 3.0,
    }
    row |= {"fisher_overlap": 0.5, "second_steadiness": 0.1, "cl_by_cl": -1.0, "mim_by_cl": 0.1, "mim_by_mim": -1.0}
    rows = [row | {"conflict": share, "cl_by_mim": 0.0} for share in (0.6, 0.4, 0.4)]
    after = {plan: {"1": [0.5 + 0.1 * sum(of_plan), 4.0 - of_plan[0]]} for plan, of_plan in scales.items()}
    start = {"fresh": rows, "warm": rows, "before": [0.5, 4.0], "after": after}
    seeds = {"0": {"start": start, "accuracy": {plan: of_plan[0] for plan, of_plan in scales.items()}}}
    return {"plans": scales, "sets": {"grey": seeds, "colour": seeds}}


def ends(ranking: Ranking) -> tuple[float, float, float]:
    return ranking.mean, ranking.low, ranking.high


def test_predictors_of_plans_that_are_known(tool: ModuleType) -> None:
    assert tool.drawn_plans(study(), "grey") == [f"any {number}" for number in range(9)]
    rows = {name: whole["grey"] for name, whole, _ in tool.predictor_rows(study())}
    assert ends(rows["scale of the lowest block"]) == pytest.approx((1, 1, 1))
    assert ends(rows["measured, 1 step: gain of contrast"]) == pytest.approx((1, 1, 1))
    assert rows["images in conflict (fresh heads)"].mean > rows["mean of the logarithms"].mean
    assert ends(rows["cosine of the mean gradients (warm heads)"]) == pytest.approx((0, 0, 0))  # the same in all blocks


def test_numbers_of_the_committed_study_are_whole() -> None:
    content = json.loads((ROOT / "docs" / "plans.json").read_text())
    for seeds in content["sets"].values():
        for seed in seeds.values():
            assert seed["start"]["after"].keys() <= seed["accuracy"].keys()
            assert seed["scores"].keys() == seed["accuracy"].keys() <= content["plans"].keys()
            assert {frozenset(scores) for scores in seed["scores"].values()} == {frozenset(TITLES)}
            assert seed["penalties"].keys() <= seed["accuracy"].keys()
