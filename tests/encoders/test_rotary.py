"""Networks with rotary positions (timm's Eva) against timm's own forward pass, whole and with patches left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from timm.layers import PatchDropoutWithIndices
from timm.models import save_for_hf
from torch import Tensor, nn

import layergraft
from layergraft.config import EncoderConfig
from layergraft.encoders.adapt import load_resized, resize_encoder
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.identity import encoder_identity
from layergraft.encoders.network import model_args
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "DINOv3": {"name": "vit_small_patch16_dinov3"},
    "DINOv3, biases, class token": {"name": "vit_small_patch16_dinov3_qkvb", "global_pool": "token"},
    "DINOv3, gated MLP": {"name": "vit_small_plus_patch16_dinov3"},
    "DINOv3 of four channels, taller than wide": {
        "name": "vit_small_patch16_dinov3",
        "in_chans": 4,
        "img_size": (48, 16),
    },
    "EVA-02": {"name": "eva02_base_patch14_224"},
    "EVA-02, norms after": {"name": "eva02_enormous_patch14_clip_224"},
    "EVA without rotary positions": {"name": "eva_giant_patch14_224"},
    "Perception Encoder": {"name": "vit_pe_core_base_patch16_224"},
    "frequencies of each head": {"name": "vit_small_patch16_rope_mixed_224"},
    "frequencies of each head, added positions": {"name": "vit_small_patch16_rope_mixed_ape_224"},
    "registers of a ViT with rotary positions": {"name": "vit_mediumd_patch16_rope_reg1_gap_256"},
    "no class token": {"name": "vit_small_patch16_dinov3", "class_token": False},
}


def perturbed(**changes: Any) -> Encoder:
    """An encoder whose every weight counts: fresh biases, scales and tokens would hide a mistake."""
    encoder = create_encoder(EncoderConfig(**({"positions": "random"} | SMALL | changes)), 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return encoder


def of_timm(encoder: Encoder, **changes: Any) -> nn.Module:
    network: nn.Module = timm.create_model(
        encoder.architecture, num_classes=0, **(encoder.model_args | {"global_pool": encoder.vit.global_pool} | changes)
    ).eval()
    network.load_state_dict(encoder.vit.state_dict())
    return network


def some_images(encoder: Encoder, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, encoder.in_chans, *(size or encoder.input_size), generator=generator)


class Kept(PatchDropoutWithIndices):
    """timm's way to leave patches out in training, told which to keep."""

    def __init__(self, prefix: int, keep: Tensor) -> None:
        super().__init__(0.5, num_prefix_tokens=prefix)
        self.keep, self.prefix = keep, prefix

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        patches = x[:, self.prefix :].gather(1, self.keep[:, :, None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.prefix], patches], dim=1), self.keep


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equals_timm_with_all_patches_some_and_in_another_size(kind: str) -> None:
    encoder = perturbed(**KINDS[kind])
    theirs, images = of_timm(encoder), some_images(encoder)
    assert_close(encoder(images), theirs(images))
    dynamic, larger = of_timm(encoder, dynamic_img_size=True), some_images(encoder, 48, 64)
    assert_close(encoder(larger), dynamic(larger))
    for network, shown in ((theirs, images), (dynamic, larger)):
        rows, columns = encoder.grid_of(shown)
        generator = torch.Generator().manual_seed(3)
        keep = torch.stack([torch.randperm(rows * columns, generator=generator)[:4] for _ in shown])
        network.patch_drop = Kept(encoder.prefix_tokens, keep)
        tokens, _ = encoder.run_blocks(encoder.tokens(shown, keep), rotation=encoder.rotation(shown, keep))
        assert_close(encoder.norm(tokens), network.forward_features(shown))
        assert_close(encoder(shown, keep), network(shown))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_row_and_a_gradient(kind: str) -> None:
    encoder = perturbed(**KINDS[kind]).train()
    rows = [id(parameter) for row in encoder.layers().values() for parameter in row]
    assert sorted(rows) == sorted(id(parameter) for parameter in encoder.parameters())
    images = some_images(encoder)
    first, second = encoder(images), encoder(images)
    assert torch.equal(first, second), "training draws no random numbers of its own"
    first.square().sum().backward()
    without = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not without


@torch.no_grad()
def test_a_rotation_that_is_missing_is_an_error() -> None:
    encoder = perturbed(name="vit_small_patch16_dinov3")
    images = some_images(encoder)
    tokens = encoder.tokens(images, torch.tensor([[0, 3]] * 3))
    with pytest.raises(ValueError, match=r"pass that of `Encoder\.rotation`"):
        encoder.run_blocks(tokens)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_goes_out_and_comes_back(kind: str, tmp_path: Path) -> None:
    encoder = perturbed(**KINDS[kind])
    save_encoder(encoder, tmp_path / "encoder", {})
    loaded, images = layergraft.load_encoder(tmp_path / "encoder"), some_images(encoder)
    assert torch.equal(loaded(images), encoder(images))
    assert encoder_identity(loaded) == encoder_identity(encoder)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0).eval()
    assert_close(theirs(images), encoder(images))
    resized = resize_encoder(encoder, (40, 24), "it", lambda _: None).eval()
    larger = some_images(encoder, 40, 24)
    assert_close(resized(larger), encoder(larger))


def test_other_angles_are_not_taken_for_the_same() -> None:
    """Weights do not show them."""
    donor = perturbed(name="vit_small_patch16_dinov3_qkvb")
    like = create_encoder(
        EncoderConfig(**({"name": "vit_small_patch16_dinov3_qkvb"} | SMALL)),
        0,  # type: ignore[arg-type]
    )
    like.vit.rope.temperature = 10_000.0
    with pytest.raises(UserError, match="Rotary positions of 'it'"):
        load_resized(donor, like, "it", lambda _: None)


@pytest.mark.parametrize("kind", ["DINOv3", "EVA-02", "frequencies of each head"])
@torch.no_grad()
def test_costs_and_per_image_gradients_are_told(kind: str, tmp_path: Path) -> None:
    """Networks without content, and several images at once as one function of one."""
    encoder = perturbed(**KINDS[kind])
    save_encoder(encoder, tmp_path, {})
    assert layergraft.inspect(checkpoint=str(tmp_path), json=True)["gflop"] > 0
    images, keep = some_images(encoder), torch.tensor([[0, 3], [1, 2], [5, 4]])

    def tokens(image: Tensor, kept: Tensor) -> Tensor:
        rotation = encoder.rotation(image[None], kept[None])
        return encoder.run_blocks(encoder.tokens(image[None], kept[None]), rotation=rotation)[0][0]

    together, _ = encoder.run_blocks(encoder.tokens(images, keep), rotation=encoder.rotation(images, keep))
    assert_close(torch.vmap(tokens)(images, keep), together)


@torch.no_grad()
def test_dynamic_sizes_of_a_plain_vit(tmp_path: Path) -> None:
    arguments = SMALL | {"dynamic_img_size": True, "num_classes": 0}
    theirs = timm.create_model("vit_small_patch16_224", **arguments).eval()
    save_for_hf(theirs, tmp_path, model_args=SMALL | {"dynamic_img_size": True})
    encoder = layergraft.load_encoder(tmp_path)
    for size in (32, 48):
        images = torch.randn(2, 3, size, size)
        assert_close(encoder(images), theirs(images))


def test_names_of_timm() -> None:
    config = EncoderConfig(name="vit_small_patch16_dinov3", reg_tokens=2, class_token=False)
    assert model_args(config)["num_reg_tokens"] == 2
    mocos = create_encoder(EncoderConfig(**(SMALL | {"name": "eva02_base_patch14_224", "weight_init": "moco"})), 0)  # type: ignore[arg-type]
    assert not mocos.vit.blocks[0].attn.v_proj.bias.any()
    with pytest.raises(UserError, match="no place for a convolutional stem"):
        create_encoder(EncoderConfig(name="vit_small_patch16_dinov3", stem="conv", depth=2), 0)
