"""Scores against scikit-learn; sliding windows against a predictor that sees single pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from layergraft.data.fashion.load import ArrayImages
from layergraft.data.masks import ArrayMasks
from layergraft.data.sources.source import Source
from layergraft.evaluation import segmentation
from layergraft.evaluation.segmentation import confusion, predict_classes, scores, window_starts


def test_scores_are_scikit_learn_s() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 5000)
    found = np.where(random.random(5000) < 0.6, truth, random.integers(0, 4, 5000))
    ours = scores(confusion_matrix(truth, found, labels=range(5)))
    assert ours["miou"] == pytest.approx(100 * jaccard_score(truth, found, average="macro"))
    assert ours["pixel_accuracy"] == pytest.approx(100 * accuracy_score(truth, found))


def by_pixel(windows: torch.Tensor) -> torch.Tensor:
    """A pixel of value 40 c has class c."""
    return torch.nn.functional.one_hot((windows[:, 0].long() / 40).round().long(), 5).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("shape", [(24, 24), (24, 61), (50, 24)])
def test_windows_cover_an_image(shape: tuple[int, int]) -> None:
    classes = np.random.default_rng(0).integers(0, 5, shape)
    image = (40 * classes).astype(np.uint8)[:, :, None]
    found = next(iter(predict_classes(by_pixel, [image], 24, 5)))
    assert np.array_equal(found, classes)
    assert window_starts(61, 24) == [0, 16, 32, 37]
    assert window_starts(24, 24) == [0]


def test_windows_are_as_large_as_zoom_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images twice as high as a window keep their pixels at zoom 2, and each call sees no more than fit the memory."""
    monkeypatch.setattr(segmentation, "MOST_LOGITS", 7 * 5 * 24 * 24)
    random = np.random.default_rng(0)
    classes = [random.integers(0, 5, shape) for shape in ((48, 48), (48, 61), (90, 48))]
    images = [(40 * own).astype(np.uint8)[:, :, None] for own in classes]
    seen = []

    def predict(windows: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(windows.shape))
        return by_pixel(windows)

    found = list(predict_classes(predict, images, 24, 5, zoom=2))
    assert all(np.array_equal(ours, own) for ours, own in zip(found, classes, strict=True))
    assert {shape[1:] for shape in seen} == {(1, 24, 24)}
    assert [shape[0] for shape in seen] == [7, 7, 7, 7, 7, 4], "3 × 3, 3 × 4 and 6 × 3 windows"


def test_ignored_pixels_do_not_count() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 5, (40, 24, 24))
    masks = np.where(random.random(classes.shape) < 0.3, 0, classes + 1).astype(np.uint8)
    wrong = np.where(random.random(classes.shape) < 0.2, (classes + 1) % 5, classes)
    source = Source(
        spec="test",
        images=ArrayImages((40 * wrong).astype(np.uint8)),
        keys=np.arange(40),
        masks=ArrayMasks(masks),
    )
    counts = confusion(by_pixel, source, 5, 24, 1)
    assert np.array_equal(counts, confusion_matrix(classes[masks > 0], wrong[masks > 0]))
