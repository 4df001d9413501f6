"""What VICReg's lead is made of: pairs of arms that differ in one thing."""

from __future__ import annotations

import pytest
from synthetic_study import SHOTS, synthetic_study

from layergraft.commands.reproduce.arms import ARMS
from layergraft.commands.reproduce.outcome import make_claims
from layergraft.commands.reproduce.separations import PAIRS, separations_table
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.study_file import as_study

LEVELS = {"vicreg_half": 37.0, "vicreg_narrow": 40.5, "graft_simclr": 36.5, "moco_wide": 35.0, "moco_whole": 38.0}


def test_pairs_are_arms_that_have_all_seeds() -> None:
    assert {name for _, *pair in PAIRS for name in pair} <= set(ARMS)
    assert set(LEVELS) < {name for _, *pair in PAIRS for name in pair}


def test_differences_by_hand() -> None:
    content = synthetic_study()
    uniform = next(arm for arm in content["arms"] if arm["name"] == "graft_uniform")
    levels = {"graft_vicreg": 40.0, **LEVELS}
    first = {seed["seed"]: seed["test"] for seed in uniform["seeds"]}
    for name, level in levels.items():
        more = {seed: level - 35.0 + 0.1 * seed for seed in first}  # over `graft_uniform`, at every number of shots
        seeds = [
            {"seed": seed, "seconds": 1.0, "holdout": {}}
            | {"test": {column: value + more[seed] for column, value in test.items()}}
            for seed, test in first.items()
        ]
        content["arms"].append(uniform | {"name": name, "title": name, "budget": "epochs", "seeds": seeds})
    claims = make_claims(as_study(content, MeasuredClaims))
    rows = {(row.first, row.second): row.difference.mean for row in claims.separations}
    assert len(rows) == len(PAIRS)
    assert rows["graft_vicreg", "vicreg_half"] == pytest.approx(3.0)
    assert rows["vicreg_half", "graft_simclr"] == pytest.approx(0.5)
    own = sum(0.1 * seed for seed in first) / len(first)
    assert rows["moco_whole", "graft uniform"] == pytest.approx(3.0 + own)
    assert len(SHOTS) == 4
    table = separations_table(claims.separations)
    assert len(table.rows) == len(PAIRS)
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_vicreg_alone_separates_nothing() -> None:
    content = synthetic_study()
    uniform = next(arm for arm in content["arms"] if arm["name"] == "graft_uniform")
    content["arms"].append(uniform | {"name": "graft_vicreg", "title": "graft with VICReg"})
    assert make_claims(as_study(content, MeasuredClaims)).separations == []
