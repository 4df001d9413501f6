"""The anchor: its value by hand, over chosen rows, and to the same weights after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from conftest import TINY
from torch import nn

import layergraft
from layergraft.config import load_recipe
from layergraft.graft.apply import Anchor
from layergraft.graft.plan import build_plan
from layergraft.training.trainer import Outcome, Trainer


def rows() -> dict[str, list[nn.Parameter]]:
    names = ["patch_embed", "positions", "tokens", "blocks.0", "blocks.1", "norm", "heads.projector"]
    return {name: [nn.Parameter(torch.full((2, 3), float(number)))] for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        # Each entry of row n moved by n + 1; positions are frozen and cost nothing. Six entries a row.
        ({"norm": "l1", "weight": 0.5, "blocks": 1}, 0.5 * 6 * (1 + 3 + 4)),
        ({"norm": "l1", "weight": 0.5}, 0.5 * 6 * (1 + 3 + 4 + 5 + 6)),
        ({"norm": "l2", "weight": 0.5, "rows": ["blocks.*", "heads.*"]}, 0.5 * 0.5 * 6 * (4**2 + 5**2 + 7**2)),
        ({"norm": "l2", "weight": 0.5, "rows": ["positions"]}, None),
    ],
)
def test_penalty_by_hand(anchor: dict[str, object], expected: float | None) -> None:
    content = {"objective": {"name": "moco"}, "plan": {"anchor": anchor, "freeze": ["positions"]}}
    stage = load_recipe({"stages": {"graft": content}}).stages["graft"]
    parameters = rows()
    counts = dict.fromkeys(parameters, 6)
    held = Anchor(parameters, build_plan(stage, "graft", counts, 2))
    for number, (parameter,) in enumerate(parameters.values()):
        parameter.data += number + 1
    penalty = held.pull()
    assert penalty is None if expected is None else float(penalty) == pytest.approx(expected)  # type: ignore[arg-type]


class Interrupted(Exception):
    pass


def curve(run: Path) -> list[tuple[float, float]]:
    lines = (run / "stages" / "1-graft" / "metrics.jsonl").read_text().splitlines()
    return [(row["loss"], row["anchor"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_anchor_survives_a_resume(norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds to the weights right after grafting, not to those that the run went on from."""
    anchor = {"norm": norm, "weight": 1e-2, "blocks": 2}
    changes = TINY | {"stages.graft.plan.anchor": anchor, "stages.mae.epochs": 0.2, "engine.checkpoint_steps": 2}
    recipe = msgspec.to_builtins(load_recipe("fashion_paper", changes)) | {"evaluate": None, "analyze": []}
    whole = layergraft.train(recipe=recipe, out=tmp_path / "whole").out
    accept, graft_steps = Trainer.accept, len(curve(whole))

    def interrupt(self: Trainer, outcome: Outcome) -> None:
        if self.stage.name == "graft" and self.step == graft_steps // 2:
            raise Interrupted
        accept(self, outcome)

    monkeypatch.setattr(Trainer, "accept", interrupt)
    with pytest.raises(Interrupted):
        layergraft.train(recipe=recipe, out=tmp_path / "run")
    monkeypatch.undo()
    run = layergraft.train(recipe=recipe, out=tmp_path / "run").out
    assert curve(run) == curve(whole)
    assert curve(whole)[0][1] == 0.0
    assert curve(whole)[-1][1] > 0
    file = "stages/1-graft/encoder/model.safetensors"
    assert (run / file).read_bytes() == (whole / file).read_bytes()
