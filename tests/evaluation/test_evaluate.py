"""Whole evaluations on a few built-in images."""

from __future__ import annotations

import numpy as np
import torch

from layergraft.config import EncoderConfig, EvaluateConfig
from layergraft.data.sources import open_source, split_holdout
from layergraft.evaluation.evaluate import Task, evaluate_encoders
from layergraft.models.vit import create_encoder

ENCODER = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=4, num_heads=2
)


def test_on_held_out_images() -> None:
    torch.manual_seed(0)
    train, holdout = split_holdout(open_source("builtin:fashion-canvas?fraction=0.05"), 100, seed=0)
    task = Task.on_holdout(train, holdout, seed=0)
    config = EvaluateConfig(protocols=("knn", "logistic"), shots=(1, 5), splits=2)
    rows = evaluate_encoders(task, config, {"some": create_encoder(ENCODER, 0)})
    assert {row.encoder for row in rows} == {"pixels", "some"}
    assert {row.test for row in rows} == {"holdout"}
    assert {row.n_test for row in rows} == {100}
    assert not np.intersect1d(train.keys, holdout.keys).size
    assert max(row.value for row in rows) > 10
