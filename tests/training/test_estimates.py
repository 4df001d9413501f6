"""What `plan` says a stage costs: operations by their shapes, seconds by a step that was run, or why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from layergraft.commands.cli import main
from layergraft.config.loading import recipe_names

LARGE = [name for name in recipe_names() if not name.startswith("fashion_")]


def stages_of(name: str, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["plan", "--recipe", name, "--json", "true", *words]) == 0
    stages: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["stages"]
    assert stages
    return stages


def test_a_small_stage_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    stages = stages_of("fashion_refiner", capsys)
    assert len(stages) == 3
    for stage in stages:
        assert min(stage["steps"], stage["flops"], stage["seconds"]) > 0
        assert "from steps of" in stage["notes"]["seconds"]


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE)
def test_a_large_stage_has_operations_and_seconds_or_a_reason(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stages = stages_of(name, capsys, "--data", "builtin:fashion-canvas")
    assert stages
    for stage in stages:
        images = stage["steps"] * stage["batch_size"]
        assert 1e9 < stage["flops"] / images < 1e13
        assert (stage["seconds"] is None) == ("not tried" in stage["notes"]["seconds"])


def test_without_images_nothing_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    stage = stages_of("vit_base_from_mae", capsys)[0]
    assert (stage["steps"], stage["flops"], stage["seconds"]) == (None, None, None)
    assert {stage["notes"][name] for name in ("steps", "flops", "seconds")} == {"give --data to know"}
