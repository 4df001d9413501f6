"""Every recipe: its header and its plans; the small ones train, and do the same in two processes as in one."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import layergraft
from layergraft.config import load_recipe
from layergraft.config.loading import recipe_names, recipe_text
from layergraft.encoders.vit import create_encoder
from layergraft.graft.apply import stage_plan
from layergraft.objectives import create_objective
from layergraft.objectives.queue import Queue

FASHION = [name for name in recipe_names() if name.startswith("fashion_")]
LARGE = [name for name in recipe_names() if name not in FASHION]


def test_there_are_recipes_of_both_kinds() -> None:
    """Without any, the tests of every recipe would be none."""
    assert len(FASHION) > 5
    assert len(LARGE) > 2


@pytest.mark.parametrize("name", recipe_names())
def test_header(name: str) -> None:
    """A page of a lab notebook: what, the exact command, what it costs, whether it was run."""
    header = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
    assert len(header[0]) > 20
    words = [line[1:].split(":")[0].strip() for line in header]
    assert {"Command", "Cost", "Run"} <= set(words)
    assert f"--recipe {name} " in next(line for line in header if "Command:" in line) + " "


@pytest.mark.parametrize("name", LARGE)
def test_plans_of_large_recipes_fit_their_encoder(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.stages
    with torch.device("meta"):
        encoder = create_encoder(recipe.encoder, 0)
        for stage_name, stage in recipe.stages.items():
            rows, plan = stage_plan(stage, stage_name, encoder, create_objective(stage.objective, encoder))
            assert any(not row.frozen for row in plan.rows)
            assert [row.name for row in plan.rows] == list(rows)


CONTINUE = [name for name in recipe_names() if name.startswith("continue_")]


@pytest.mark.parametrize("name", CONTINUE)
def test_whatever_moves_released_weights_is_guarded_and_anchored(name: str) -> None:
    stages = load_recipe(name).stages
    assert list(stages) == ["heads", "upper", "graft"]
    with torch.device("meta"):
        encoder = create_encoder(load_recipe(name).encoder, 0)
        for stage_name, stage in stages.items():
            plan = stage_plan(stage, stage_name, encoder, create_objective(stage.objective, encoder))[1]
            moving = [row for row in plan.rows if not row.frozen and not row.name.startswith("heads.")]
            assert bool(moving) == (stage.guard is not None) == (stage_name != "heads")
            assert all(row.anchor is not None for row in moving)


def test_the_page_of_released_weights_names_recipes_that_are_there() -> None:
    page = Path(__file__).parents[2] / "docs" / "weights.md"
    assert set(re.findall(r"continue_[a-z]+", page.read_text())) - {"continue_study"} == set(CONTINUE)


def small(name: str, steps: int) -> dict[str, Any]:
    """Changes that make a recipe's every stage a few steps of 32 images, in a narrow encoder."""
    changes: dict[str, Any] = {
        "data.source": "builtin:fashion-canvas?fraction=0.06",
        "data.holdout": 64,
        "encoder.embed_dim": 32,
        "encoder.num_heads": 2,
        "engine.log_every": 1,
        "monitor.every": 0,
    }
    for stage in load_recipe(name).stages:  # 20 steps are an epoch
        changes |= {f"stages.{stage}.batch_size": 32, f"stages.{stage}.epochs": steps / 20}
        changes[f"stages.{stage}.warmup_epochs"] = 0.25
    return changes


def train(name: str, out: Path, changes: dict[str, Any]) -> Path:
    content = msgspec.to_builtins(load_recipe(name, changes)) | {"evaluate": None, "analyze": []}
    return layergraft.train(recipe=content, out=out).out


def losses(run: Path) -> dict[str, list[float]]:
    """Stage -> its loss at every step."""
    found = {}
    for path in sorted(run.glob("stages/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        found[path.parent.name.partition("-")[2]] = [row["loss"] for row in rows]
    return found


@pytest.mark.parametrize("name", FASHION)
def test_small_recipes_train(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    run = train(name, tmp_path / "run", small(name, 3))
    curves = losses(run)
    assert list(curves) == list(recipe.stages)
    assert all(len(curve) == 3 and all(abs(loss) < 1e4 for loss in curve) for curve in curves.values())
    # From stage to stage, frozen rows stay and the others move.
    stages = sorted(run.glob("stages/*"))
    for before, after in itertools.pairwise(stages):
        old, new = (layergraft.load_encoder(stage).layers() for stage in (before, after))
        for row in json.loads((after / "plan.json").read_text())["layers"]:
            if row["name"] in old:
                same = all(torch.equal(a, b) for a, b in zip(old[row["name"]], new[row["name"]], strict=True))
                assert same == (row["frozen"] or not old[row["name"]]), (after.name, row["name"])


def test_heads_are_carried_from_a_stage_of_heads_alone(tmp_path: Path) -> None:
    """The refiner's last stage starts from the heads and the queue that the stage before trained."""
    changes = small("fashion_refiner", 3)
    changes["stages.refine.optimizer.base_lr"] = 0.0
    run = train("fashion_refiner", tmp_path / "run", changes)
    heads, refine = (load_file(run / "stages" / stage / "heads.safetensors") for stage in ("1-heads", "2-refine"))
    names = [name for name in heads if name.endswith("weight")]
    assert len(names) == 16  # two heads, each of five linears and three BatchNorms with a scale
    assert all(torch.equal(heads[name], refine[name]) for name in names)
    for block in (4, 5):
        assert int(heads[f"nnclr.{block}.queue.place"]) == 96
        assert int(refine[f"nnclr.{block}.queue.place"]) == 192
        assert torch.equal(heads[f"nnclr.{block}.queue.features"][:96], refine[f"nnclr.{block}.queue.features"][:96])


def drawn(self: Queue, features: Tensor, draws: Tensor, topk: int, exclude: Tensor | None = None) -> Tensor:
    """A remembered feature by lot instead of by nearness."""
    filled = (self.ids >= 0).sum()  # a tensor, whose value the counting of operations does not need
    own = torch.nn.functional.normalize(features, dim=1)
    return torch.where(filled > 0, self.features[(draws * filled).long()], own)


class Smooth(nn.GELU):
    """In the place of a ReLU."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()


def train_exactly(out: Path) -> None:
    """20 steps of every stage of every small recipe in float64."""
    for name in FASHION:
        train(name, out / name, small(name, 20) | {"engine.precision": "64-true"})


def train_smoothly(out: Path) -> None:
    """20 steps of every stage of every small recipe in fp32, without what rounding decides by yes or no."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Queue, "neighbours", drawn)
        patch.setattr(nn, "ReLU", Smooth)
        for name in FASHION:
            train(name, out / name, small(name, 20) | {"engine.precision": "32-true", "engine.products": "torch"})


SCRIPT = """
import sys
sys.path[:0] = {places!r}
from pathlib import Path
from test_recipes import {what}
{what}(Path({out!r}))
"""


def in_processes(world: int, what: str, out: Path) -> Path:
    """Call `what`, a function of this module, in one or several processes."""
    here, package = Path(__file__).parent, Path(layergraft.__file__).parents[1]
    script = out / "script.py"
    script.write_text(SCRIPT.format(places=[str(package), str(here)], what=what, out=str(out)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, *torchrun, str(script)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module", params=["train_exactly", "train_smoothly"])
def curves(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """What was trained, by one process and by two."""
    places = [in_processes(world, request.param, tmp_path_factory.mktemp(f"in{world}")) for world in (1, 2)]
    return request.param, *places


@pytest.mark.slow
@pytest.mark.parametrize("name", FASHION)
def test_two_processes_have_the_loss_curve_of_one(name: str, curves: tuple[str, Path, Path]) -> None:
    """The same recipe at the same global batch has the same loss at every one of 20 steps.

    In float64 every objective as it is; observed at most 1e-15. In fp32 two things are a yes or no that rounding
    decides, and each moves the gradient by a part of 1 / batch: the side of zero on which a head's ReLU finds a number,
    and which neighbour is nearest. Whether and when one of the 10^5 numbers of a step lies that near to zero is chance:
    between step 4 and never. From there the curves part by up to 2e-2 within the 20 steps, and as much in one process
    whose weights are changed by 6e-8. So fp32 is held to the bar with a GELU for the ReLU of the heads and neighbours
    by lot; observed at most 7e-7. At the recipes' own sizes it was 1e-15 and 3e-7.
    """
    kind, one, two = curves[0], losses(curves[1] / name), losses(curves[2] / name)
    assert list(one) == list(two) == list(load_recipe(name).stages)
    for stage, curve in one.items():
        assert len(curve) == 20
        worst = max(abs(a / b - 1) for a, b in zip(two[stage], curve, strict=True))
        print(f"{kind} {name} {stage}: {worst:.1e}")
        assert worst <= (1e-8 if kind == "train_exactly" else 1e-4), stage
