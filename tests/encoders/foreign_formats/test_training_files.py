"""DINOv2's training checkpoints, linear sweeps, and what a file of weights cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from library_files import assert_reads, images, perturbed, said, save
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from layergraft.encoders.checkpoint import open_checkpoint, save_encoder
from layergraft.errors import UserError

SHAPE = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "num_classes": 0,
}
Weights = dict[str, Tensor]


def vit(**more: Any) -> Any:
    return perturbed(timm.create_model("vit_tiny_patch16_224", **(SHAPE | more)))


def dinov2(registers: int) -> tuple[Weights, Tensor]:
    """(a backbone with DINOv2's names, its tokens by timm, which reads them too)."""
    arguments = {"init_values": 0.1, "reg_tokens": registers, "no_embed_class": registers > 0}
    weights = dict(vit(init_values=0.1).state_dict()) | {"mask_token": torch.zeros(1, 32)}
    if registers:
        weights["register_tokens"] = torch.randn(1, registers, 32, generator=torch.Generator().manual_seed(3))
    theirs = timm.create_model("vit_tiny_patch16_224", **(SHAPE | arguments)).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
    with torch.no_grad():
        return weights, theirs.forward_features(images())


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("chunked", [False, True])
def test_training_file_of_dinov2(registers: int, chunked: bool, tmp_path: Path) -> None:
    """Blocks may lie in chunks of an FSDP run; the heads of DINO and iBOT lie beside the backbone."""
    weights, expected = dinov2(registers)
    if chunked:
        weights = {key.replace("blocks.", "blocks.0.", 1): value for key, value in weights.items()}
    heads = {f"{head}.mlp.0.weight": torch.zeros(3, 3) for head in ("dino_head", "ibot_head")}
    content = {"teacher": {f"backbone.{key}": value for key, value in weights.items()} | heads}
    checkpoint = assert_reads(f"{save(content, tmp_path / 'file.pth')}?num_heads=2", images(), expected)
    assert checkpoint.notes[0].partition(": ")[2].startswith("DINOv2 training checkpoint, encoder `teacher`")
    assert "teacher.dino_head (1 tensor), teacher.ibot_head (1 tensor), mask token (1 tensor)" in said(checkpoint)
    content["teacher"]["backbone.surprise"] = torch.zeros(3)
    with pytest.raises(UserError, match="surprise"):
        open_checkpoint(f"{save(content, tmp_path / 'file.pth')}?num_heads=2")


@pytest.mark.parametrize("behind_norm", [False, True])
def test_a_sweep_of_linear_heads(behind_norm: bool, tmp_path: Path) -> None:
    """Many heads on one encoder, as a linear evaluation over learning rates fits them; one alone is a classifier."""
    model = vit()
    heads: Weights = {}
    for index in range(3):
        linear = f"heads.{index}.1" if behind_norm else f"heads.{index}"
        heads |= {f"{linear}.weight": torch.ones(5, 32), f"{linear}.bias": torch.zeros(5)}
        if behind_norm:
            heads |= {f"heads.{index}.0.running_{part}": torch.ones(32) for part in ("mean", "var")}
            heads |= {f"heads.{index}.0.num_batches_tracked": torch.tensor(1)}
    content = {"state_dict": {f"module.{key}": value for key, value in (model.state_dict() | heads).items()}}
    with torch.no_grad():
        expected = model.forward_features(images())
    checkpoint = assert_reads(f"{save(content, tmp_path / 'file.pth')}?num_heads=2", images(), expected)
    assert "3 linear heads of a sweep" in said(checkpoint)
    assert not checkpoint.classifier
    stacked = {"heads.0.weight": torch.ones(5, 32), "heads.2.weight": torch.ones(3, 5)}
    with pytest.raises(UserError, match=r"unknown: heads\.0\.weight"):
        open_checkpoint(f"{save(model.state_dict() | stacked, tmp_path / 'file.pth')}?num_heads=2")


def test_the_mean_of_the_patches_can_be_asked_for(tmp_path: Path) -> None:
    """A file does not tell; what was asked for is kept where the encoder is saved."""
    model = vit(global_pool="avg", fc_norm=False)
    file = save(model, tmp_path / "file.pth")
    assert "?pool=mean" in said(open_checkpoint(f"{file}?num_heads=2"))
    checkpoint = open_checkpoint(f"{file}?num_heads=2&pool=mean")
    assert "?pool=mean" not in said(checkpoint)
    save_encoder(checkpoint.encoder, tmp_path / "saved", {})
    with torch.no_grad():
        for encoder in (checkpoint.encoder, open_checkpoint(tmp_path / "saved").encoder):
            assert encoder.feature_is_token is False
            assert_close(encoder(images()), model(images()))
        whole = open_checkpoint(f"{file}?num_heads=2").encoder
        again = open_checkpoint(f"{tmp_path / 'saved'}?pool=mean&img_size=40").encoder
        assert_close(again.vit.cls_token, whole.vit.cls_token)
        assert again.feature_is_token is False
    with pytest.raises(UserError, match="pool=mean"):
        open_checkpoint(f"{file}?num_heads=2&pool=max")


def test_the_activation_can_be_asked_for(tmp_path: Path) -> None:
    model = vit(act_layer="quick_gelu")
    file = save(model, tmp_path / "file.pth")
    assert "Block with GELU is assumed" in said(open_checkpoint(f"{file}?num_heads=2"))
    checkpoint = open_checkpoint(f"{file}?num_heads=2&act=quick_gelu")
    save_encoder(checkpoint.encoder, tmp_path / "saved", {})
    with torch.no_grad():
        for encoder in (checkpoint.encoder, open_checkpoint(tmp_path / "saved").encoder):
            assert_close(encoder(images()), model(images()))
    with pytest.raises(UserError, match="Block with QuickGELU and says so"):
        open_checkpoint(f"{tmp_path / 'saved'}?act=gelu")


def test_what_looks_like_a_plain_vit_and_may_be_none_is_said(tmp_path: Path) -> None:
    """ScaleMAE keeps positions that its forward never reads."""
    assert "ScaleMAE" in said(open_checkpoint(f"{save(vit(), tmp_path / 'file.pth')}?num_heads=2"))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("rope_embed.periods", "rotary positions"),
        ("blocks.0.attn.relative_position_bias_table", "relative position biases"),
    ],
)
def test_networks_that_are_known_and_not_read_are_named(key: str, reason: str, tmp_path: Path) -> None:
    weights = dict(vit().state_dict()) | {key: torch.zeros(4)}
    for content in (weights, {"teacher": {f"backbone.{name}": value for name, value in weights.items()}}):
        with pytest.raises(UserError, match=reason):
            open_checkpoint(f"{save(content, tmp_path / 'file.pth')}?num_heads=2")
