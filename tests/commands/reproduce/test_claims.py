from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import COLUMNS, SHOTS, synthetic_study

from layergraft.commands.reproduce.claims import read_claims, write_claims
from layergraft.commands.reproduce.outcome import make_claims
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.study_file import as_study
from layergraft.errors import UserError


def bar(content: Any, budget: str = "epochs") -> Any:
    return next(own for own in make_claims(as_study(content, MeasuredClaims)).graft_vs_parents if own.budget == budget)


def test_file_holds_the_outcome_and_what_it_came_from(tmp_path: Path) -> None:
    content = synthetic_study()
    write_claims(as_study(content, MeasuredClaims), tmp_path)
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written["study"] == content
    assert read_claims(tmp_path / "claims.json") == make_claims(as_study(content, MeasuredClaims))
    row = written["graft_vs_parents"][0]["rows"][0]
    assert row["against"] == "mae"
    assert row["column"] == "1"
    assert set(row["difference"]) == {"mean", "low", "high", "seeds", "values", "p", "p_holm", "power", "seeds_needed"}


def test_graft_is_compared_with_both_parents_at_every_number_of_shots() -> None:
    own = bar(synthetic_study())
    assert [(row.column, row.against) for row in own.rows] == [(s, p) for s in SHOTS for p in ("mae", "scratch")]
    assert {tuple(row.difference.seeds) for row in own.rows} == {(0, 1, 2, 3, 4)}
    assert own.rows[0].difference.mean == pytest.approx(10.0, abs=0.1)
    assert own.rows[0].difference.p_holm > own.rows[0].difference.p
    assert own.beats_both is True


def test_one_interval_that_holds_zero_is_enough_to_fail() -> None:
    content = synthetic_study()
    scratch = next(arm for arm in content["arms"] if arm["name"] == "scratch")
    scratch["seeds"][0]["test"]["50"] += 30.0
    own = bar(content)
    assert own.beats_both is False
    assert [row.column for row in own.rows if row.difference.low <= 0] == ["50"]


def test_without_intervals_it_is_open() -> None:
    assert bar(synthetic_study(seeds=1)).beats_both is None
    content = synthetic_study()
    for arm in content["arms"]:
        if arm["name"] == "scratch":
            del arm["seeds"][0]["test"]["5"], arm["seeds"][1]["test"]["5"]
    assert bar(content).rows[3].difference.seeds == [2, 3, 4]


def test_equal_compute_takes_the_longer_parent() -> None:
    own = bar(synthetic_study(), "compute")
    assert own.parents == ["mae", "scratch_compute"]
    gone = make_claims(as_study(synthetic_study(without=("scratch_compute",)), MeasuredClaims))
    assert [bar.budget for bar in gone.graft_vs_parents] == ["epochs"]


def test_accuracy_of_an_arm() -> None:
    claims = make_claims(as_study(synthetic_study(), MeasuredClaims))
    few = claims.accuracy("pixels", "mean")
    assert few is not None
    assert few.mean == pytest.approx(25.0 + (0 + 12 + 16 + 22) / 4)
    assert {own.column for own in claims.accuracies if own.arm == "mae"} == {"mean", *COLUMNS}
    assert claims.accuracy("mae", "2") is None


def test_differences_reach_every_arm_of_their_budget() -> None:
    claims = make_claims(as_study(synthetic_study(), MeasuredClaims))
    found = {
        budget: {own.against for own in claims.differences if own.budget == budget} for budget in ("epochs", "compute")
    }
    others = {"random", "pixels", "mae", "joint", "graft_frozen", "cl_mim", "graft_uniform"}
    assert found == {"epochs": others | {"scratch"}, "compute": others | {"scratch_compute"}}


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    content = synthetic_study()
    del content["arms"][0]["seeds"]
    with pytest.raises(UserError, match="arms"):
        write_claims(as_study(content, MeasuredClaims), tmp_path)


def test_conflict_on_the_way_through_training() -> None:
    """By hand: the cosine falls from +0.025 over −0.025 to −0.05, the share rises from 6.25 % over 18.75 % to 56 %."""
    content = synthetic_study()
    rows = make_claims(as_study(content, MeasuredClaims)).conflict_during
    assert [row.part for row in rows] == [0.25, 0.75, 1.0]
    assert [row.cosine.mean for row in rows] == pytest.approx([0.025, -0.025, -0.05], abs=0.01)
    assert [row.negative.mean for row in rows] == pytest.approx([6.25, 18.75, 50 + 4 * 1.5])
    assert [row.slope.mean for row in rows] == pytest.approx([0, 0, 4.0])
    # One family: the smallest p of the four tests that have a spread (a slope of 0 in every seed is no test).
    known = sorted(test.p for row in rows for test in (row.cosine, row.slope) if test.p is not None)
    assert min(test.p_holm for row in rows for test in (row.cosine, row.slope) if test.p_holm) == pytest.approx(
        min(1.0, known[0] * len(known))
    )
    for seed in content["conflict"]:
        del seed["during"]
    assert make_claims(as_study(content, MeasuredClaims)).conflict_during == []
