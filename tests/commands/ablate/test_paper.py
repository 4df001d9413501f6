"""What a paper prints of a study with many arms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from played_study import LEVEL, SCALE, ablation, measured, operations_made_up, play

from layergraft.commands.ablate.outcome import AblationOutcome, make_outcome
from layergraft.commands.study.figures import differences_figure
from layergraft.commands.study.paper import write_table
from layergraft.runs.report.pdf import complete_spec

PAGE = 700  # points of text on a page of A4


def outcome(shots: tuple[str, ...]) -> AblationOutcome:
    """Of 25 random plans and an even one."""
    random, arms = np.random.default_rng(0), dict[str, Any](even={})
    for number in range(25):
        arms[f"any-{number}"] = {SCALE: {"blocks": random.uniform(0.03, 3, 3).round(2).tolist()}}
    content = {"arms": arms, "search": 1}
    with pytest.MonkeyPatch.context() as patch, operations_made_up():
        for arm in arms:
            patch.setitem(LEVEL, arm, float(random.uniform(30, 50)))
        study = ablation(content)
        found = play(study)[1]
    for of_job in found.values():
        for part in ("holdout", "test"):
            if part in of_job:
                of_job[part] = {key: of_job[part][key] for key in shots}
    evaluate = structs.replace(study.settings.evaluate, shots=tuple(map(int, shots)), protocols=("logistic",))
    study.settings = replace(study.settings, evaluate=evaluate)
    return make_outcome(measured(study, found, content))


def test_a_table_of_one_number_of_shots_says_it_once(tmp_path: Path) -> None:
    for shots, columns in ((("5",), 1), (("1", "5"), 3)):
        write_table(outcome(shots), "epochs", tmp_path / "table.tex")
        lines = (tmp_path / "table.tex").read_text().splitlines()
        rows = [line for line in lines if line.endswith(r"\\")]
        assert {line.count(" & ") for line in rows} == {columns + 3}
        assert len(rows) == 1 + 26 + 2


def test_a_figure_of_many_arms_fits_a_page() -> None:
    figure = differences_figure(outcome(("5",)), "epochs")
    assert figure is not None
    assert complete_spec(figure)["height"] * 0.75 < PAGE
