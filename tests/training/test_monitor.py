"""The images that stand for all held-out ones while training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
import torch

from layergraft.config import EncoderConfig
from layergraft.config.recipe import MonitorConfig
from layergraft.data.randomness import Randomness
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import create_encoder
from layergraft.objectives.base import Objective
from layergraft.training import monitor
from layergraft.training.monitor import Monitor, stratified_sample

SIZES = {"a": 60, "b": 30, "c": 30, "d": 6, "e": 4, "f": 20, "g": 50}


@pytest.fixture(scope="module")
def sorted_by_class(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A folder of folders: in source order, all of the first class come before any of the second."""
    root = tmp_path_factory.mktemp("classes")
    for number, (name, count) in enumerate(SIZES.items()):
        (root / name).mkdir()
        for index in range(count):
            cv2.imwrite(str(root / name / f"{index:02d}.png"), np.full((4, 4), number * 30 + index, dtype=np.uint8))
    return open_source(str(root))


def test_a_class_sorted_folder_is_watched_in_all_its_classes(
    sorted_by_class: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "FEWEST", 50)
    watched = Monitor(MonitorConfig(every=1), sorted_by_class, sorted_by_class, 0, 1).holdout
    counts = np.bincount(watched.selected_labels, minlength=len(SIZES))
    assert counts.sum() == 50
    assert (counts >= 1).all()
    shares = np.array(list(SIZES.values())) / 4  # 50 of 200
    assert (np.abs(counts - shares) <= 1.5).all()


def test_the_sample_is_random_fixed_and_fair(sorted_by_class: Source) -> None:
    taken = np.zeros(len(sorted_by_class))
    for seed in range(100):
        sample = stratified_sample(sorted_by_class, 50, Randomness(seed=seed, scope="monitor"))
        again = stratified_sample(sorted_by_class, 50, Randomness(seed=seed, scope="monitor"))
        assert np.array_equal(sample.keys, again.keys)
        assert len(set(sample.keys.tolist())) == 50
        taken[sample.keys] += 1
    labels = sorted_by_class.selected_labels
    for label in range(len(SIZES)):  # a quarter of each class, small ones too
        assert abs(taken[labels == label].mean() - 25) < 5
    assert (taken > 0).all()


def test_fewer_images_than_asked_for_are_all_looked_at(sorted_by_class: Source) -> None:
    few = sorted_by_class.subset(sorted_by_class.keys[:7])
    assert stratified_sample(few, 7, Randomness(seed=0, scope="monitor")) is few
    assert len(stratified_sample(few, 0, Randomness(seed=0, scope="monitor"))) == 0
    assert len(stratified_sample(few.subset(few.keys[:0]), 5, Randomness(seed=0, scope="monitor"))) == 0


@pytest.mark.parametrize(("scale", "finite"), [(float("nan"), False), (3e38, False), (1e30, True), (0.0, True)])
def test_diverged_or_constant_weights_are_named_not_a_crash(
    sorted_by_class: Source, scale: float, finite: bool
) -> None:
    encoder = create_encoder(
        EncoderConfig(
            name="vit_tiny_patch16_224", img_size=8, in_chans=3, patch_size=4, embed_dim=16, depth=1, num_heads=2
        ),
        0,
    ).train()
    with torch.no_grad():
        encoder.vit.norm.weight.mul_(scale)
        encoder.vit.norm.bias.add_(min(scale, 1e30))
    config = MonitorConfig(every=1, protocols=("knn", "ridge"))
    watch = Monitor(config, sorted_by_class, sorted_by_class, 0, 1)
    numbers = watch.evaluate(encoder, cast(Objective, SimpleNamespace(selection_metric=None)))
    assert encoder.training
    if finite:
        assert {"knn", "ridge", "feature_std", "rankme"} == set(numbers)
        assert all(np.isfinite(list(numbers.values())))
        assert numbers["feature_std"] > 0.01 or not scale
    else:
        assert set(numbers) == {"nonfinite_features"}
        assert "not finite" in watch.warnings(numbers, encoder.embed_dim)[0]
