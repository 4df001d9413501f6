from __future__ import annotations

from typing import Any

import pytest
from synthetic_study import synthetic_study

from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.reproduce.verdicts import POINTS, Part, claim, judge, verdicts
from layergraft.commands.study.statistics import Effect
from layergraft.commands.study.study_file import as_study


def found(content: Any) -> dict[tuple[int, str | None], str]:
    return {(own.number, own.budget): own.verdict for own in verdicts(as_study(content, MeasuredClaims))}


def study(**changes: float) -> MeasuredClaims:
    return as_study(synthetic_study(changes), MeasuredClaims)


def part(mean: float, p: float | None, claimed: Any = "above 0", p_holm: float | None = None) -> Part:
    test = Effect(mean=mean, low=mean - 1, high=mean + 1, seeds=[0, 1], values=[mean, mean], p=p, p_holm=p_holm)
    return Part(hypothesis="a ends above b", statistic="a − b", unit=POINTS, claimed=claimed, test=test)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (part(2.0, 0.04), "holds"),
        (part(2.0, 0.06), "undecided"),
        (part(-2.0, 0.04), "does not hold"),
        (part(-2.0, 0.04, "below 0"), "holds"),
        (part(2.0, 0.04, p_holm=0.08), "undecided"),
        (part(2.0, None), "undecided"),
    ],
)
def test_rule(own: Part, expected: str) -> None:
    assert judge(own).verdict == expected


def test_parts_are_corrected_together() -> None:
    own = claim(4, "s", "epochs", [part(2.0, 0.03), part(2.0, 0.02)])
    assert [p.test.p_holm for p in own.parts if p.test is not None] == pytest.approx([0.04, 0.04])
    assert own.verdict == "holds"
    three = claim(4, "s", "epochs", [part(2.0, 0.03), part(2.0, 0.02), part(2.0, 0.9)])
    assert [p.verdict for p in three.parts] == ["undecided"] * 3
    assert "no longer significant once corrected" in three.reason


def test_a_claim_is_as_good_as_its_worst_part() -> None:
    assert claim(4, "s", None, [part(2.0, 0.001), part(2.0, 0.5)]).verdict == "undecided"
    mixed = claim(4, "s", None, [part(2.0, 0.001), part(-2.0, 0.001), part(2.0, 0.5)])
    assert mixed.verdict == "does not hold"
    assert mixed.reason == "a ends above b: −2.00 [−3.00, −1.00] points of accuracy, on the other side."


def test_everything_holds_where_it_was_made_to() -> None:
    assert set(found(synthetic_study()).values()) == {"holds"}


def test_each_claim_looks_at_its_own_arms() -> None:
    assert found(synthetic_study({"joint": 28.0}))[(2, "epochs")] == "does not hold"
    assert found(synthetic_study({"cl_mim": 25.0}))[(3, "epochs")] == "does not hold"
    assert found(synthetic_study({"graft_frozen": 38.0}))[(4, "epochs")] == "does not hold"
    # At equal compute the parent that was trained longer counts.
    longer = found(synthetic_study({"scratch_compute": 40.0}))
    assert longer[(4, "epochs")] == "holds"
    assert longer[(4, "compute")] == "does not hold"


def test_the_statistic_is_the_mean_over_shots() -> None:
    content = synthetic_study()
    for arm in content["arms"]:
        for own in arm["seeds"]:  # what is no number of shots has no say
            own["test"] |= {"1%": 99.0 if arm["name"] == "joint" else 0.0}
    (claim_2,) = (c for c in verdicts(as_study(content, MeasuredClaims)) if (c.number, c.budget) == (2, "epochs"))
    assert claim_2.verdict == "holds"
    test = claim_2.parts[0].test
    assert test is not None
    assert test.mean == pytest.approx(-2.0, abs=0.15)
    assert test.seeds == [0, 1, 2]


def test_conflict_that_falls_with_depth() -> None:
    content = synthetic_study()
    for own in content["conflict"]:
        own["blocks"] = [b | {"negative": 1 - b["negative"], "mean": 0.05} for b in own["blocks"]]
        own["blocks"][0]["mean"] += 0.01 * own["seed"]
    first = verdicts(as_study(content, MeasuredClaims))[0]
    assert [p.verdict for p in first.parts] == ["does not hold", "does not hold"]
    # Shares of 0.03, 0.04 and 0.05 a block, as percentage points.
    assert first.parts[1].test is not None
    assert first.parts[1].test.mean == pytest.approx(-4.0)


def test_what_was_not_measured_stays_undecided() -> None:
    content = synthetic_study(without=("graft_frozen", "scratch_compute"))
    content["conflict"] = []
    own = {(c.number, c.budget): c for c in verdicts(as_study(content, MeasuredClaims))}
    assert own[(1, None)].verdict == "undecided"
    assert own[(4, "epochs")].verdict == "undecided"
    assert own[(4, "epochs")].reason == "graft slow > graft_frozen: not measured."
    assert own[(4, "compute")].parts[1].test is None  # scratch was trained for equal epochs alone


def test_one_seed_decides_nothing() -> None:
    assert set(found(synthetic_study(seeds=1)).values()) == {"undecided"}
