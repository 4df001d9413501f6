"""Probabilities from few labels: the temperature, the penalty, and how far confidence and accuracy lie apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from layergraft.data.sources.open import open_source
from layergraft.evaluation.calibration import SPREAD, USUAL, calibration_error, fit_temperature
from layergraft.evaluation.features import center_and_normalize, pixels
from layergraft.evaluation.labelled_classifier import STRENGTH, fit_labelled


def rows(count: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of five classes, and labels drawn from their softmax at a temperature."""
    random = np.random.default_rng(0)
    logits = torch.from_numpy(3 * random.normal(size=(count, 5)))
    shares = torch.softmax(logits / temperature, dim=1).numpy()
    return logits, torch.tensor([random.choice(5, p=share) for share in shares])


def test_many_labels_decide_the_temperature_and_none_leave_it_as_it_is_usual() -> None:
    logits, labels = rows(20_000, 0.7)
    assert fit_temperature(logits, labels) == pytest.approx(0.7, rel=0.03)
    assert fit_temperature(logits[:0], labels[:0]) == pytest.approx(USUAL, rel=1e-3)


def test_the_temperature_is_the_likeliest_of_a_grid() -> None:
    logits, labels = rows(25, 1.0)
    grid = np.exp(np.linspace(-2, 3, 5001))
    chances = torch.softmax(logits / torch.from_numpy(grid)[:, None, None], dim=2)
    right = chances[:, torch.arange(25), labels].log().sum(1).numpy()
    expected = grid[(right - 0.5 * (np.log(grid / USUAL) / SPREAD) ** 2).argmax()]
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=5e-3)
    assert abs(np.log(expected / grid[right.argmax()])) > 0.05  # what is usual counts


def test_the_calibration_error_is_that_of_the_paper() -> None:
    """Guo et al. 2017, equation 3, written as a loop over bins."""
    random = np.random.default_rng(0)
    confidence, correct = random.random(500), random.random(500) < 0.6
    expected = 0.0
    for number in range(15):
        inside = (confidence >= number / 15) & (confidence < (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    assert calibration_error(np.ones(4), np.ones(4, dtype=bool)) == 0


def test_calibrated_probabilities_are_twice_as_good() -> None:
    """On average over draws of 30 labels; raw pixels are the features."""
    source = open_source("builtin:fashion-canvas:test?fraction=0.2")
    features, truth = pixels(source, 36, 1, 12), source.selected_labels
    errors = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(truth))
        labelled, rest = order[:30], order[30:]
        present, labels = np.unique(truth[labelled], return_inverse=True)
        fitted = fit_labelled(features[labelled], labels.astype(np.int64), len(present), 0.1)
        pair = []
        for classifier in (fitted, replace(fitted, temperature=1.0)):
            known = classifier.probabilities(features[rest])
            pair.append(calibration_error(known.max(1), present[known.argmax(1)] == truth[rest]))
        errors.append(pair)
    calibrated, uncalibrated = np.mean(errors, axis=0)
    assert calibrated < uncalibrated / 2


def test_another_penalty_is_taken_where_the_labels_are_certain_of_it() -> None:
    """Of noise a strong one is best. Thirty labels are not certain of any."""
    random = np.random.default_rng(0)
    labels = np.arange(600) % 3
    centres = random.normal(size=(3, 40))
    features = center_and_normalize((centres[labels] + 4 * random.normal(size=(600, 40))).astype(np.float32))
    assert fit_labelled(features[:30], labels[:30], 3, 0.1).strength == STRENGTH
    many = fit_labelled(features, labels, 3, 0.1).strength
    assert many is not None
    assert many > STRENGTH


def test_labels_that_are_alone_in_their_class_leave_everything_as_it_is_usual() -> None:
    features = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    fitted = fit_labelled(features, np.arange(4), 4, 0.1)
    assert (fitted.strength, fitted.temperature, fitted.threshold) == (STRENGTH, USUAL, None)
