"""Each foreign format: a file with that format's names, and its features computed with timm by hand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import FIXTURES, assert_close
from foreign_files import NAMES, Weights, below, images, random_weights, timm_features, with_prefix
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from layergraft import load_encoder
from layergraft.config import EncoderConfig
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

BACKBONE = below(random_weights(NAMES["dino"]["teacher"], 1), "backbone.")  # timm's names
TRAINING = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": argparse.Namespace(arch="vit_small")}


def dino() -> dict[str, Any]:
    teacher, student = (random_weights(NAMES["dino"]["teacher"], seed) for seed in (1, 2))
    return {
        "teacher": teacher,
        "student": with_prefix(student, "module."),
        "dino_loss": {"center": torch.zeros(1, 4)},
    } | TRAINING


def ibot() -> dict[str, Any]:
    sides = [
        random_weights({f"backbone.{k}": v for k, v in NAMES["ibot"]["state_dict"].items()}, seed) for seed in (1, 2)
    ]
    head = {"head.last_layer2.weight_v": torch.ones(4, 4)}
    return {
        "teacher": sides[0] | head,
        "student": with_prefix(sides[1] | head, "module."),
        "fp16_scaler": None,
    } | TRAINING


def ijepa() -> dict[str, Any]:
    target, context = (random_weights(NAMES["ijepa"]["target_encoder"], seed) for seed in (1, 2))
    numbers = {"loss": np.float64(0.3), "batch_size": 2048, "world_size": 16, "lr": np.float32(1e-3), "scaler": {}}
    return {
        "encoder": context,
        "target_encoder": target,
        "predictor": {"module.mask_token": torch.zeros(3)},
        "opt": {},
    } | numbers


def moco(seed: int = 1) -> dict[str, Any]:
    sides = {
        "base_encoder": BACKBONE,
        "momentum_encoder": {name: value * 1.1 for name, value in BACKBONE.items()},
        "predictor": {"0.weight": torch.ones(4, 4)},
    }
    state = {f"module.{side}.{name}": value for side, weights in sides.items() for name, value in weights.items()}
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {}, "scaler": {}}


REFINER = random_weights(NAMES["mim_refiner"]["state_dict"], 4)


def refiner_features() -> Tensor:
    """Position by position: patches get theirs, then the class token, without one, is put in front."""
    trunk = {name: value for name, value in REFINER.items() if not name.startswith(("pos_embed", "cls_tokens"))}
    vit = timm.create_model("vit_small_patch16_224", depth=2, num_classes=0).eval()
    vit.load_state_dict(trunk, strict=False)
    with torch.no_grad():
        patches = vit.patch_embed(images()) + REFINER["pos_embed.embed"].reshape(1, 196, 384)
        tokens = torch.cat([REFINER["cls_tokens.tokens"].expand(2, -1, -1), patches], dim=1)
        features: Tensor = vit.norm(vit.blocks(tokens))[:, 0]
    return features


def without(weights: Weights, *names: str) -> Weights:
    return {name: value for name, value in weights.items() if name not in names}


def ijepa_features(key: str) -> Tensor:
    return timm_features(below(ijepa()[key], "module."), class_token=False, global_pool="avg", fc_norm=False)


IBOT = random_weights(NAMES["ibot"]["state_dict"], 3)
DECODER = {
    "mask_token": torch.zeros(1, 1, 8),
    "decoder_pos_embed": torch.zeros(1, 197, 8),
    "decoder_pred.bias": torch.zeros(3),
}
# format -> (content of the file, options, what is said of it, features by timm)
CASES: dict[str, tuple[Any, str, str, Any]] = {
    "mae": ({"model": BACKBONE}, "", "timm's names", lambda: timm_features(BACKBONE)),
    "mae with decoder": (
        {"model": BACKBONE | DECODER} | TRAINING,
        "",
        "MAE with decoder",
        lambda: timm_features(BACKBONE),
    ),
    "moco v3": (moco(), "", "MoCo v3", lambda: timm_features(BACKBONE)),
    "moco v3, 12 heads": (moco(), "?num_heads=12", "12 heads", lambda: timm_features(BACKBONE, num_heads=12)),
    "moco v3 momentum": (
        moco(),
        "?encoder=momentum",
        "encoder `momentum`",
        lambda: timm_features({name: value * 1.1 for name, value in BACKBONE.items()}),
    ),
    "dino teacher": (dino(), "", "encoder `teacher`", lambda: timm_features(below(dino()["teacher"], "backbone."))),
    "dino student": (
        dino(),
        "?encoder=student",
        "encoder `student`",
        lambda: timm_features(below(dino()["student"], "module.backbone.")),
    ),
    "dino backbone": (BACKBONE, "", "DINO", lambda: timm_features(BACKBONE)),
    "ibot teacher": (
        ibot(),
        "",
        "iBOT training",
        lambda: timm_features(without(below(ibot()["teacher"], "backbone."), "masked_embed")),
    ),
    "ibot student": (
        ibot(),
        "?encoder=student",
        "iBOT training",
        lambda: timm_features(without(below(ibot()["student"], "module.backbone."), "masked_embed")),
    ),
    "ibot backbone": ({"state_dict": IBOT}, "", "iBOT backbone", lambda: timm_features(without(IBOT, "masked_embed"))),
    "i-jepa": (ijepa(), "", "I-JEPA, encoder `target`", lambda: ijepa_features("target_encoder")),
    "i-jepa context": (ijepa(), "?encoder=context", "encoder `context`", lambda: ijepa_features("encoder")),
    "mim-refiner": ({"state_dict": REFINER}, "", "MIM-Refiner", refiner_features),
    "mim-refiner flat": (REFINER, "", "MIM-Refiner", refiner_features),
    "timm with average": (
        {"state_dict": IBOT, "state_dict_ema": BACKBONE, "epoch": 1},
        "?encoder=ema",
        "encoder `ema`",
        lambda: timm_features(BACKBONE),
    ),
    "half precision": (
        {"model": {name: value.half() for name, value in BACKBONE.items()}},
        "",
        "half precision were widened",
        lambda: timm_features({name: value.half().float() for name, value in BACKBONE.items()}),
    ),
    "data parallel": (
        {"state_dict": with_prefix(BACKBONE, "module.")},
        "",
        "timm's names",
        lambda: timm_features(BACKBONE),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_timm(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, options, note, expected = CASES[case]
    torch.save(content, tmp_path / "file.pth")
    encoder = load_encoder(f"{tmp_path / 'file.pth'}{options}")
    printed = capsys.readouterr().err
    assert note in printed
    assert ("num_heads 6 is assumed" in printed) == ("num_heads" not in options)
    with torch.no_grad():
        assert_close(encoder(images()), expected())


def dinov2_weights(registers: bool) -> Weights:
    weights = random_weights(NAMES["dinov2"][""], 5)
    return weights if registers else without(weights, "register_tokens")


@pytest.mark.parametrize("registers", [True, False])
@pytest.mark.parametrize("size", [518, 224])
def test_dinov2(registers: bool, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm reads DINOv2's own files; at 224 px both resize the positions of 518."""
    weights = dinov2_weights(registers)
    torch.save(weights, tmp_path / "dinov2.pth")
    encoder = load_encoder(f"{tmp_path / 'dinov2.pth'}?img_size={size}")
    printed = capsys.readouterr().err
    assert "DINOv2" in printed
    assert ("pos_embed was resized from 37×37 to 16×16" in printed) == (size == 224)
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    theirs = timm.create_model(name, img_size=size, depth=2, num_classes=0).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
    with torch.no_grad():
        assert_close(encoder(images(size)[:1]), theirs(images(size)[:1]))


def test_dinov2_gated_mlp(tmp_path: Path) -> None:
    """The names of DINOv2's giant, narrow: w12 and w3 in place of fc1 and fc2."""
    weights = without(
        dinov2_weights(False),
        *(f"blocks.{i}.mlp.fc{j}.{p}" for i in (0, 1) for j in (1, 2) for p in ("weight", "bias")),
    )
    shapes = {"w12.weight": [2048, 384], "w12.bias": [2048], "w3.weight": [384, 1024], "w3.bias": [384]}
    weights |= random_weights({f"blocks.{i}.mlp.{name}": shape for i in (0, 1) for name, shape in shapes.items()})
    torch.save(weights, tmp_path / "dinov2.pth")
    encoder = load_encoder(tmp_path / "dinov2.pth")
    theirs = timm.create_model(
        "vit_giant_patch14_dinov2", embed_dim=384, depth=2, num_heads=6, mlp_ratio=2048.1 / 384, num_classes=0
    ).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
    with torch.no_grad():
        assert_close(encoder(images(518)[:1]), theirs(images(518)[:1]))


def test_conv_stem_of_moco(tmp_path: Path) -> None:
    stem = create_encoder(EncoderConfig(name="vit_small_patch16_224", stem="conv", img_size=64, depth=2), 0).eval()
    state = with_prefix(stem.vit.state_dict(), "module.base_encoder.")
    torch.save({"arch": "vit_conv_small", "state_dict": state}, tmp_path / "conv.pth.tar")
    encoder = load_encoder(f"{tmp_path / 'conv.pth.tar'}?num_heads=6")
    with torch.no_grad():
        assert torch.equal(encoder(images(64)), stem(images(64)))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("encoder=momentum", "teacher, student"),
        ("num_head=6", "num_heads"),
        ("num_heads=six", "whole number"),
        ("img_size=230", "multiple"),
        *((f"{key}={value}", "positive") for key in ("num_heads", "img_size") for value in ("0", "-6", "")),
        *((f"norm_eps={value}", "positive") for value in ("nan", "-1", "0", "inf")),
    ],
)
def test_options_that_do_not_fit(query: str, message: str, tmp_path: Path) -> None:
    torch.save(dino(), tmp_path / "dino.pth")
    with pytest.raises(UserError, match=message):
        load_encoder(f"{tmp_path / 'dino.pth'}?{query}")


def test_recorded_files_of_mae_and_moco() -> None:
    """Files of the original implementations, with the features they gave."""
    for folder, file in (("mae_tiny", "checkpoint.pth"), ("mocov3_tiny", "checkpoint.pth.tar")):
        expected = load_file(FIXTURES / folder / "expected.safetensors")
        encoder = load_encoder(f"{FIXTURES / folder / file}?num_heads=4")
        with torch.no_grad():
            if folder == "mae_tiny":
                assert_close(encoder(expected["images"]), expected["features_unmasked"][:, 0])
            else:
                assert_close(encoder(expected["x1"]), expected["features_base_x1"])
