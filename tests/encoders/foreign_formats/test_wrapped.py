"""A known encoder below one prefix: which encoder is taken, what may lie beside it, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from library_files import assert_reads, images, perturbed, said, save
from torch import nn

from layergraft.encoders.checkpoint import open_checkpoint
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


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", **SHAPE)


class Holder(nn.Module):
    """A training loop's module: whatever it was given, by name."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


@torch.no_grad()
def test_mae_of_lightly(tmp_path: Path) -> None:
    modules = pytest.importorskip("lightly.models.modules")
    backbone = modules.MaskedVisionTransformerTIMM(vit=vit())
    sizes = {"embed_dim": 32, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    decoder = modules.MAEDecoderTIMM(num_patches=16, patch_size=8, **sizes)
    model = perturbed(Holder(backbone=backbone, decoder=decoder))
    expected = model.backbone.vit.forward_features(images())
    for content in (model, {"state_dict": model.state_dict(), "epoch": 3, "optimizer_states": [{}]}):
        checkpoint = assert_reads(f"{save(content, tmp_path / 'file.pth')}?num_heads=2", images(), expected)
        assert "below `backbone.vit.`" in checkpoint.format
        assert "decoder (" in said(checkpoint)
        assert "backbone.mask_token (1 tensor)" in said(checkpoint)


@torch.no_grad()
def test_which_of_several_encoders(tmp_path: Path) -> None:
    """The order of the file, but a teacher comes before its student; the others by name."""
    pair = perturbed(Holder(backbone=vit(), projection_head=nn.Linear(4, 4), backbone_momentum=vit()))
    file = save(pair, tmp_path / "file.pth")
    checkpoint = assert_reads(f"{file}?num_heads=2", images(), pair.backbone.forward_features(images()))
    assert checkpoint.roles == ("backbone", "backbone_momentum")
    other = f"{file}?num_heads=2&encoder=backbone_momentum"
    assert_reads(other, images(), pair.backbone_momentum.forward_features(images()))
    distilled = perturbed(Holder(student_backbone=vit(), teacher_backbone=vit()))
    expected = distilled.teacher_backbone.forward_features(images())
    assert_reads(f"{save(distilled, file)}?num_heads=2", images(), expected)


@pytest.mark.parametrize("name", ["adapter", "input_projection", "backbone.prompt", "encoder"])
def test_what_could_change_the_features_is_not_passed_over(name: str, tmp_path: Path) -> None:
    weights = {f"backbone.vit.{key}": value for key, value in vit().state_dict().items()}
    file = save(weights | {f"{name}.weight": torch.zeros(3, 3)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=f"below a prefix, but 1 of its tensors are unknown: {name}"):
        open_checkpoint(f"{file}?num_heads=2")


def test_a_copy_is_one_by_its_numbers(tmp_path: Path) -> None:
    """stable-pretraining keeps the patch embedding twice; where they differ nobody knows which one counts."""
    weights = {f"model.encoder.vit.{key}": value for key, value in vit().state_dict().items()}
    copy = {f"model.encoder.{key}": value for key, value in vit().patch_embed.state_dict(prefix="patch_embed.").items()}
    for key in copy:
        copy[key] = weights[key.replace("encoder.", "encoder.vit.")].clone()
    file = tmp_path / "file.pth"
    open_checkpoint(f"{save(weights | copy, file)}?num_heads=2")
    copy["model.encoder.patch_embed.proj.bias"] += 1
    with pytest.raises(UserError, match=r"unknown: model\.encoder\.patch_embed\.proj\.bias"):
        open_checkpoint(f"{save(weights | copy, file)}?num_heads=2")


def test_a_classifier_beside_the_encoder_is_named(tmp_path: Path) -> None:
    """RETFound's and others' fine-tuning keeps it below the same prefix, a training loop beside it."""
    weights = {f"backbone.{key}": value for key, value in vit().state_dict().items()}
    inside = {"backbone.head.weight": torch.ones(3, 32), "backbone.head.bias": torch.ones(3)}
    checkpoint = open_checkpoint(f"{save(weights | inside, tmp_path / 'file.pth')}?num_heads=2")
    assert checkpoint.classifier.keys() == {"weight", "bias"}
    beside = {"classifier.weight": torch.ones(3, 32), "fc.bias": torch.ones(3)}
    checkpoint = open_checkpoint(f"{save(weights | beside, tmp_path / 'file.pth')}?num_heads=2")
    assert "classifier (1 tensor), fc (1 tensor)" in said(checkpoint)


def test_two_networks_that_are_none(tmp_path: Path) -> None:
    for network, reason in ((timm.create_model("resnet18"), "convolutional"), (nn.Linear(3, 3), "no format")):
        weights = {f"model.{key}": value for key, value in network.state_dict().items()}
        with pytest.raises(UserError, match=reason):
            open_checkpoint(save(weights, tmp_path / "file.pth"))
