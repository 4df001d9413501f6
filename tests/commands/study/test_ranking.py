"""Rank correlations of scores with accuracy, where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from synthetic_ranking import scored_study

from layergraft.commands.study.ranking import correlations, over_encoders, over_groups, ranking_table, rankings
from layergraft.commands.study.study_file import MeasuredStudy, as_study


def measured(**changes: Any) -> MeasuredStudy:
    return as_study(scored_study() | changes, MeasuredStudy)


def test_correlations_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for _ in range(5):
        a, b = random.integers(0, 6, (2, 20)).astype(float)  # with equal values
        assert float(correlations(a, b)) == pytest.approx(float(stats.spearmanr(a, b).statistic))
    assert float(correlations(np.ones(5), np.arange(5.0))) == 0


def test_a_score_that_follows_accuracy_and_one_that_does_not() -> None:
    found = rankings(measured())
    arms, trials = found["single_images"]["arms"], found["single_images"]["trials"]
    assert (arms.mean, arms.groups, arms.encoders) == (1, 2, 12)
    assert (trials.mean, trials.groups, trials.encoders) == (1, 5, 15)
    assert found["rankme"]["arms"].mean == -1
    assert abs(found["lidar"]["arms"].mean) < 0.5
    assert "loss" not in found  # was not measured


def test_intervals_are_those_of_the_groups_that_are_drawn() -> None:
    random = np.random.default_rng(1)
    pairs = [(random.normal(size=30), random.normal(size=30)) for _ in range(40)]
    found = over_groups(pairs)
    each = [float(correlations(a, b)) for a, b in pairs]
    assert found.mean == pytest.approx(np.mean(each))
    assert found.high is not None
    assert found.low is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.std(each) / 40**0.5, rel=0.15)
    one = over_encoders([pairs[0]] * 5)  # the same group again is no more evidence
    assert (one.low, one.high) == (over_encoders([pairs[0]]).low, over_encoders([pairs[0]]).high)


def test_of_few_there_is_no_interval() -> None:
    """A perfect order of four encoders, or of two arms, is no certainty."""
    few, order = np.arange(4.0), np.arange(20.0)
    for found in (over_encoders([(few, few)] * 9), over_groups([(order, order)] * 2)):
        assert (found.mean, found.low, found.high) == (1, None, None)
    noise = np.random.default_rng(0).normal(size=20)
    found = over_encoders([(order, noise)])
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_table_has_the_best_first() -> None:
    table = ranking_table(measured())
    assert table is not None
    assert table.columns == ["", "over 6 arms and 2 seeds", "over 15 trials of 5 arms"]
    assert [row[0] for row in table.rows][-1] == "LiDAR"
    assert table.rows[0][1] == "+1.00"


def test_accuracy_without_labels_judges_nothing() -> None:
    """Trials that the score chose by say nothing of it; without labels there is nothing to judge by."""
    chosen = measured(protocol={"choose": "label_free"})
    assert rankings(chosen)["single_images"].keys() == {"arms"}
    assert ranking_table(measured(protocol={"choose": "label_free", "labelled": False})) is None
