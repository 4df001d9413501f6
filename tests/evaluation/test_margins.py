"""Trained protocols on the demo's encoder beat the same protocols on random weights; small versions of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layergraft
from layergraft.encoders.checkpoint import load_encoder, save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.runs.layout import Run
from layergraft.training.transfer_encoder import encoder_config

pytestmark = pytest.mark.slow
CANVAS = {"data": "builtin:fashion-canvas?fraction=0.2", "test": "builtin:fashion-canvas:test?fraction=0.2"}
SCENES = {"data": "builtin:fashion-scenes?fraction=0.3", "test": "builtin:fashion-scenes:test?fraction=0.2"}
LINEAR = {"linear.epochs": 10}
FINETUNE = {"finetune.epochs": 60, "finetune.batch_size": 25, "finetune.optimizer.base_lr": 1e-2}
SEGMENT = {"segment.epochs": 10, "segment.optimizer.base_lr": 0.4}


@pytest.fixture(scope="module")
def random_weights(demo: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two encoders of the demo's shape that have seen nothing."""
    trained, folder = load_encoder(demo.encoder), tmp_path_factory.mktemp("random")
    for seed in (1, 2):
        fresh = create_encoder(encoder_config(trained), seed, trained.mean, trained.std)
        save_encoder(fresh, folder / str(seed), {})
    return [folder / "1", folder / "2"]


@pytest.mark.parametrize(
    ("protocol", "metric", "options", "bar"),
    [
        # Once 54.8 against 26.6 and 27.6; 38.8 against 23.7 and 23.1; 23.4 against 15.1 and 15.2.
        ("linear", "top1", CANVAS | {"overrides": LINEAR}, 12.0),
        ("finetune", "top1", CANVAS | {"shots": ["10"], "splits": 1, "overrides": FINETUNE}, 10.0),
        ("segment", "miou", SCENES | {"overrides": SEGMENT}, 4.0),
    ],
)
def test_beats_random_weights(
    demo: Run,
    random_weights: list[Path],
    tmp_path: Path,
    protocol: str,
    metric: str,
    options: dict[str, Any],
    bar: float,
) -> None:
    rows = layergraft.evaluate(
        encoder=str(demo.encoder),
        against=[str(path) for path in random_weights],
        protocols=[protocol],
        out=str(tmp_path),
        **options,
    )
    values = {row.encoder: row.value for row in rows if row.metric == metric and row.variant in (None, "linear")}
    ours, *others = values.values()
    print(f"{protocol}: {ours:.1f} against {others}")
    assert len(others) == 2
    assert ours - max(others) >= bar
