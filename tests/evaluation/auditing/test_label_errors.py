"""Label errors as the paper counts them, and classes that are told apart no better than by chance."""

from __future__ import annotations

import numpy as np
import pytest

from layergraft.data.arrays import Labels
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.evaluation.auditing.alike_classes import compare_classes
from layergraft.evaluation.auditing.label_errors import find_label_errors
from layergraft.evaluation.auditing.outliers import neighbour_distances, outliers
from layergraft.evaluation.features import Array, center_and_normalize, extract, pixels
from layergraft.evaluation.labelled_classifier import fit_labelled
from layergraft.runs.layout import Run


def test_counts_are_those_of_the_paper() -> None:
    """Equations 1 to 3 of Northcutt et al. 2021, written as loops."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    probabilities = (
        random.dirichlet(np.ones(4), 300) * 0.5 + 0.5 * np.eye(4)[np.where(random.random(300) < 0.2, 0, labels)]
    )
    thresholds = [np.mean([p[j] for p, y in zip(probabilities, labels, strict=True) if y == j]) for j in range(4)]
    joint, flagged, suggested = np.zeros((4, 4)), [], []
    for p, y in zip(probabilities, labels, strict=True):
        confident = [j for j in range(4) if p[j] >= thresholds[j]]
        best = max(confident, key=lambda j: p[j], default=None)
        flagged.append(best is not None and best != y)
        suggested.append(y if best is None else best)
        if best is not None:
            joint[y, best] += 1
    scaled = joint / joint.sum(1, keepdims=True) * np.bincount(labels)[:, None]
    found = find_label_errors(probabilities, labels)
    assert found.flagged.tolist() == flagged
    assert found.suggested.tolist() == suggested
    assert found.estimated == pytest.approx(scaled.sum() - np.trace(scaled))
    assert found.order.tolist() == sorted(range(300), key=lambda i: probabilities[i, labels[i]])


def found_of_flipped(features: Array, truth: Labels, seed: int) -> tuple[float, float]:
    """With 5 % of the labels flipped: (precision of the likeliest 5 %, share of the flipped ones that is flagged)."""
    random = np.random.default_rng(seed)
    wrong = random.permutation(len(truth))[: len(truth) // 20]
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + random.integers(1, 10, len(wrong))) % 10
    probabilities = fit_labelled(features, labels, 10, 0.1).out_of_fold
    assert probabilities is not None
    found = find_label_errors(probabilities, labels)
    precision = np.isin(found.order[: len(wrong)], wrong).mean()
    return float(precision), float(np.isin(wrong, np.flatnonzero(found.flagged)).mean())


def test_flipped_labels_are_found() -> None:
    """Three in twenty of the likeliest 5 % would be the bar; raw pixels are the features."""
    source = open_source("builtin:fashion-canvas:test?fraction=0.15")
    precision, flagged = found_of_flipped(pixels(source, 36, 1, 12), source.selected_labels, 0)
    print(f"precision {precision:.2f} of the likeliest 5 %, {flagged:.2f} of the flipped ones flagged")
    assert precision > 0.4
    assert flagged > 0.5


@pytest.mark.slow
def test_flipped_labels_are_found_by_a_trained_encoder(demo: Run) -> None:
    source = open_source("builtin:fashion-canvas:test?fraction=0.15")
    features = extract(load_encoder(str(demo.encoder)), source, "cls")
    found = [found_of_flipped(features, source.selected_labels, seed) for seed in range(3)]
    print("precision of the likeliest 5 %, share flagged:", found)
    assert min(precision for precision, _ in found) > 0.5


def test_classes_without_a_difference_are_named() -> None:
    """Two of three classes are one, split by chance; the fourth has too few images to say anything."""
    random = np.random.default_rng(0)
    labels = np.concatenate([random.integers(0, 2, 80), np.full(40, 2), np.full(3, 3)])
    centres = np.array([[0, 0], [0, 0], [9, 0], [0, 9]])
    points = np.concatenate([centres[labels] + random.normal(size=(123, 2)), np.ones((123, 1))], axis=1)
    probabilities = fit_labelled(points.astype(np.float32), labels, 4, 0.1).out_of_fold
    assert probabilities is not None
    pairs = compare_classes(probabilities, labels)
    assert [(pair.first, pair.second) for pair in pairs if pair.alike] == [(0, 1)]
    assert len(pairs) == 3


def test_what_lies_apart_is_an_outlier() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(500, 8)).astype(np.float32)
    features[:, 0] += 12
    features[[7, 99]] = [[-5, 9, 0, 0, 0, 0, 0, 0], [-9, 0, 9, 0, 0, 0, 0, 0]]
    distances = neighbour_distances(center_and_normalize(features))
    assert set(outliers(distances)[:2].tolist()) == {7, 99}
    assert len(outliers(distances)) < 10
    assert not len(outliers(np.full(20, 0.3)))
    assert not len(outliers(neighbour_distances(np.ones((1, 4), dtype=np.float32))))
