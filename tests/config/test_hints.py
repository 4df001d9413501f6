"""A key without its place in the recipe: the message names the place."""

from __future__ import annotations

import pytest

from layergraft.config import load_recipe
from layergraft.errors import UserError


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("epochs", ["--stages.mae.epochs", "--stages.graft.epochs"]),
        ("batch_size", ["--stages.mae.batch_size", "--stages.graft.batch_size"]),
        ("lr", ["--stages.mae.optimizer.base_lr", "--stages.graft.optimizer.base_lr"]),
        ("mask_ratio", ["--stages.mae.objective.mask_ratio"]),
        ("temperature", ["--stages.graft.objective.temperature"]),
        ("patch_size", ["--encoder.patch_size"]),
        ("image_size", ["--encoder.img_size"]),
        ("workers", ["--data.workers"]),
        ("shots", ["--evaluate.shots"]),
        ("device", ["CUDA_VISIBLE_DEVICES"]),
        ("gpus", ["torchrun"]),
        ("sed", ["'seed'"]),
    ],
)
def test_a_key_alone_is_answered_with_its_full_path(key: str, named: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        load_recipe("fashion_paper", {key: "3"})
    assert f"There is no key `{key}`" in raised.value.problem
    for full in named:
        assert full in raised.value.hint
