"""Every recipe: its header and its plans; the small ones train, and do the same in two processes as in one."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import layergraft
from layergraft.config import load_recipe
from layergraft.config.loading import recipe_names, recipe_text
from layergraft.graft.apply import stage_plan
from layergraft.models.queue import Queue
from layergraft.models.vit import create_encoder
from layergraft.objectives import create_objective

FASHION = [name for name in recipe_names() if name.startswith("fashion_")]
LARGE = [name for name in recipe_names() if name not in FASHION]


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
    with torch.device("meta"):
        encoder = create_encoder(recipe.encoder, 0)
        for stage_name, stage in recipe.stages.items():
            rows, plan = stage_plan(stage, stage_name, encoder, create_objective(stage.objective, encoder))
            assert any(not row.frozen for row in plan.rows)
            assert [row.name for row in plan.rows] == list(rows)


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


def real(name: str, steps: int) -> dict[str, Any]:
    """Changes that end every stage of a recipe after a few steps, and nothing else: warm-up and sizes are its own."""
    recipe = load_recipe(name)
    images = 12000 - int(recipe.data.holdout)
    changes: dict[str, Any] = {"engine.log_every": 1, "monitor.every": 0}
    for stage, config in recipe.stages.items():
        changes[f"stages.{stage}.epochs"] = steps / (images // config.batch_size)
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
    filled = int((self.ids >= 0).sum())
    return self.features[(draws * filled).long()] if filled else torch.nn.functional.normalize(features, dim=1)


def train_all(out: Path) -> None:
    """20 steps of every stage of every small recipe, the refiner's also with neighbours by lot."""
    for name in FASHION:
        train(name, out / name, real(name, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Queue, "neighbours", drawn)
        train("fashion_refiner", out / "by lot", real("fashion_refiner", 20))


TWO = """
import sys
sys.path[:0] = {places!r}
from pathlib import Path
from test_recipes import train_all
train_all(Path({out!r}))
"""


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    train_all(out)
    return out


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    here, package = Path(__file__).parent, Path(layergraft.__file__).parents[1]
    script = out / "train_all.py"
    script.write_text(TWO.format(places=[str(package), str(here)], out=str(out)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    done = subprocess.run(
        [*words, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(name for name in FASHION if name != "fashion_refiner"), "by lot"])
def test_two_processes_have_the_loss_curve_of_one(name: str, one_process: Path, two_processes: Path) -> None:
    """The same recipe at the same global batch: the same loss to 1e-4, over 20 steps of `mae` and 10 of contrast.

    That contrast does not hold 1e-4 over 20 steps (up to 2.4e-3, from step 11 on) is an open question. One run of
    `fashion_joint` with weights changed by 1e-7 within one process differed as much, which speaks for rounding that
    grows; the step at which it starts was not explained. Beyond step 10 the bound is 1e-2.
    """
    one, two = losses(one_process / name), losses(two_processes / name)
    assert one.keys() == two.keys()
    for stage, curve in one.items():
        assert len(curve) == 20
        steps = 20 if stage == "mae" else 10
        if stage != "refine":  # which starts from what the stage before ended with
            assert two[stage][:steps] == pytest.approx(curve[:steps], rel=1e-4), stage
        assert two[stage] == pytest.approx(curve, rel=1e-2), stage


@pytest.mark.slow
def test_two_processes_until_a_neighbour_differs(one_process: Path, two_processes: Path) -> None:
    """Which neighbour is nearest is a yes or no that rounding decides: weights changed by 3e-8 within one process
    move the refiner's loss by up to 8e-3 from the fourth step of its heads on. Until then two processes are held to
    1e-4 like every other recipe; beyond, to what such a change does.
    """
    one, two = losses(one_process / "fashion_refiner"), losses(two_processes / "fashion_refiner")
    assert two["mae"] == pytest.approx(one["mae"], rel=1e-4)
    assert two["heads"][:3] == pytest.approx(one["heads"][:3], rel=1e-4)
    for stage in ("heads", "refine"):
        assert two[stage] == pytest.approx(one[stage], rel=2e-2), stage
