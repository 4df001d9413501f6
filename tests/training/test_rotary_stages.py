"""Stages with rotary positions and images that are not square: one and two processes, a stop, what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from processes import SMALL, finish, running, start, start_group
from safetensors.torch import load_file
from test_scale import stop_at_6
from torch import Tensor

import layergraft
from layergraft.config import dump_recipe, load_recipe

pytestmark = pytest.mark.slow
SIZE = (24, 48)
FEW = "builtin:fashion-canvas:test?fraction=0.02"
DINOV3 = SMALL | {
    "encoder.name": "vit_small_plus_patch16_dinov3",  # registers, LayerScale, a gated MLP, no added positions
    "encoder.global_pool": "token",
    "encoder.img_size": list(SIZE),
    "encoder.patch_size": 6,
    "encoder.depth": 2,
    "stages.mae.epochs": 0.5,
    "stages.graft.epochs": 1,
    "stages.graft.plan": {"lr_scale": {"decay": 0.5}, "freeze": {"blocks": 1}, "anchor": {"weight": 1e-3}},
    "stages.graft.objective.keep_ratio": 0.5,
    "engine.precision": "64-true",
    "analyze": [],
}


def train(out: Path, world: int, code: int = 0, prepare: Any = None, **changes: Any) -> Path:
    recipe, errors = out.with_suffix(".yaml"), out.with_suffix(".err")
    recipe.write_text(dump_recipe(load_recipe("fashion_paper", DINOV3 | changes)))
    words = ["--recipe", str(recipe), "--out", str(out)]
    group = [start(words, errors, prepare=prepare)] if world == 1 else start_group(words, errors, world, prepare)
    with running(*group):
        assert finish(*group) == [code] * world, errors.read_text()
    return out


def weights(run: Path) -> dict[str, Tensor]:
    """Of both stages, online and momentum."""
    files = sorted(run.glob("stages/*/encoder*/model.safetensors"))
    assert len(files) == 3
    return {f"{file.parent}/{name}": value for file in files for name, value in load_file(file).items()}


def test_dinov3_in_stages(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", 1)
    reference = list(weights(alone).values())
    train(tmp_path / "stopped", 1, 75, stop_at_6)
    again = train(tmp_path / "stopped", 1)
    assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), reference, strict=True))
    for name, changes in (("ddp", {}), ("fsdp", {"engine.strategy": "fsdp"})):
        both = list(weights(train(tmp_path / name, 2, **changes)).values())
        worst = max(float((a - b).abs().max()) for a, b in zip(both, reference, strict=True))
        print(f"{name}: weights differ by at most {worst:.1e}")
        assert worst <= 1e-6  # they are stored in float32

    encoder, images = layergraft.load_encoder(alone), torch.randn(3, 1, *SIZE)
    layergraft.export(encoder=str(alone), format="timm", out=tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        assert_close(theirs(images), encoder(images), 1e-4)
    if pytest.importorskip("onnxruntime"):
        layergraft.export(encoder=str(alone), format="onnx", out=tmp_path / "encoder.onnx")  # which compares features


def test_images_that_are_not_square(tmp_path: Path) -> None:
    """Training, measuring, looking and exporting, with 4 × 8 patches."""
    changes = SMALL | {
        "encoder.img_size": list(SIZE),
        "encoder.patch_size": 6,
        "encoder.depth": 2,
        "stages.mae.epochs": 0.3,
        "stages.graft.epochs": 0.3,
        "stages.graft.plan.lr_scale": 1.0,
        "evaluate": {"protocols": ["knn"], "shots": [1], "splits": 1},
        "analyze": ["reconstruct", "neighbours", "pca", "attention-maps", "spectrum"],
    }
    run = tmp_path / "run"
    layergraft.train(recipe="fashion_paper", out=run, overrides=changes)
    encoder = layergraft.load_encoder(run)
    assert encoder.grid == (4, 8)
    layergraft.embed(encoder=str(run), data=FEW, out=tmp_path / "features.parquet")
    layergraft.export(encoder=str(run), format="timm", out=tmp_path / "timm")
    larger = layergraft.load_encoder(f"{tmp_path / 'timm'}?img_size=48,48")
    images = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        assert_close(larger(images), encoder(images))  # positions resized once, or for these images
    assert layergraft.inspect(checkpoint=str(run))["img_size"] == SIZE
