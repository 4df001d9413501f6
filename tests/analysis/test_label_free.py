"""Scores without labels, where the answer is known."""

from __future__ import annotations

import pytest
import torch

from layergraft.analysis.label_free import clusters, few_shot_accuracy


def groups(spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """400 features around ten centres, and which centre each is of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(400) % 10
    centres = torch.randn(10, 16, generator=generator)
    return centres[labels] + spread * torch.randn(400, 16, generator=generator), labels


def test_few_shot_accuracy_tells_tight_groups_from_loose_ones_and_from_none() -> None:
    accuracies = [few_shot_accuracy(*groups(spread)) for spread in (0.1, 1.0)]
    assert accuracies[0] > 99.5 > accuracies[1] > 20
    by_chance = few_shot_accuracy(groups(1.0)[0], torch.randint(0, 10, (400,)))
    assert by_chance == pytest.approx(10, abs=4)


def test_small_pseudo_classes_are_left_out() -> None:
    features, labels = groups(0.1)
    labels = labels.masked_fill(labels == 3, 2)
    labels[:4] = 17  # four images of a class of their own, and numbers without any
    assert few_shot_accuracy(features, labels) > 99


def test_clusters_find_the_groups() -> None:
    pytest.importorskip("sklearn")
    features, labels = groups(0.05)
    assigned = clusters(features, 10)
    together = (assigned[:, None] == assigned) == (labels[:, None] == labels)
    assert together.double().mean() > 0.9
