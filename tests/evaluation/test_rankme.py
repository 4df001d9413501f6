"""RankMe where features say nothing."""

from __future__ import annotations

import torch

from layergraft.evaluation.rankme import rankme


def test_features_that_are_zero_have_collapsed() -> None:
    """It was no number, below which no warning lies."""
    assert abs(rankme(torch.zeros(8, 4)) - 1) < 1e-4
