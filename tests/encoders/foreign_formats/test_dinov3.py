"""DINOv3 as transformers, its authors and timm write it, against transformers' and timm's own forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from safetensors.torch import save_file
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor, nn

from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.donors import load_donor

SHAPE = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def perturb(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


@torch.no_grad()
def normed_tokens(encoder: Encoder) -> Tensor:
    tokens, _ = encoder.run_blocks(encoder.tokens(IMAGES), rotation=encoder.rotation(IMAGES))
    return encoder.norm(tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_gated_mlp": True, "hidden_act": "silu"},
        {
            "query_bias": False,
            "value_bias": False,
            "num_register_tokens": 4,
            "rope_theta": 50.0,
            "layer_norm_eps": 1e-3,
        },
    ],
)
def test_directories_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        **(SHAPE | {"image_size": 32, "patch_size": 8, "num_register_tokens": 2} | changes)
    )
    theirs = perturb(transformers.DINOv3ViTModel(config))
    theirs.save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    with torch.no_grad():
        output = theirs(IMAGES)
        assert_close(normed_tokens(opened.encoder), output.last_hidden_state)
        assert_close(opened.encoder(IMAGES), output.pooler_output)
    save_file(theirs.state_dict(), tmp_path / "in_memory.safetensors")  # a file alone has to be told the heads
    if "rope_theta" not in changes:
        file = open_checkpoint(f"{tmp_path / 'in_memory.safetensors'}?num_heads=2&img_size=32")
        assert_close(normed_tokens(file.encoder), output.last_hidden_state)


def test_what_transformers_alone_has_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for changes, message in (({"hidden_act": "quick_gelu"}, "quick_gelu"), ({"key_bias": True}, "k_proj.bias")):
        config = transformers.DINOv3ViTConfig(**(SHAPE | {"num_register_tokens": 1} | changes))
        transformers.DINOv3ViTModel(config).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=message):
            open_checkpoint(tmp_path)


def of_the_authors(gated: bool) -> tuple[dict[str, Tensor], nn.Module]:
    """Weights by their names, and timm's network with them: timm translates them itself."""
    name, ratio = ("vit_small_plus_patch16_dinov3_qkvb", 3.0) if gated else ("vit_small_patch16_dinov3_qkvb", 2.0)
    theirs = perturb(timm.create_model(name, mlp_ratio=ratio, global_pool="token", **TIMM))
    rules = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    rules |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2"} | ({"mlp.fc2": "mlp.w3"} if gated else {})
    weights: dict[str, Tensor] = {"mask_token": torch.randn(1, 32), "rope_embed.periods": torch.ones(4)}
    for key, value in theirs.state_dict().items():
        for old, new in rules.items():
            key = key.replace(old, new)
        weights[key] = value
    for block in range(2):
        query, of_value = (weights.pop(f"blocks.{block}.attn.{part}_bias") for part in "qv")
        weights[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query, torch.full((32,), 7.0), of_value])
        weights[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)])
    theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
    return weights, theirs


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_files_of_the_authors(gated: bool, tmp_path: Path) -> None:
    weights, theirs = of_the_authors(gated)
    torch.save(weights, tmp_path / "released.pth")
    teacher = {f"backbone.{key}": value for key, value in weights.items()} | {"dino_head.mlp.weight": torch.ones(3, 3)}
    torch.save({"teacher": teacher}, tmp_path / "training.pth")
    for file in ("released.pth", "training.pth"):
        opened = open_checkpoint(f"{tmp_path / file}?num_heads=2")
        assert_close(opened.encoder(IMAGES), theirs(IMAGES))
        assert "DINOv3" in opened.format
        assert any("mask token" in note for note in opened.notes)
    weights["blocks.0.attn.qkv.bias_mask"].fill_(1)
    torch.save(weights, tmp_path / "keys.pth")
    with pytest.raises(UserError, match="bias of the keys"):
        open_checkpoint(f"{tmp_path / 'keys.pth'}?num_heads=2")


@torch.no_grad()
def test_files_of_timm(tmp_path: Path) -> None:
    theirs = perturb(timm.create_model("vit_small_patch16_dinov3", global_pool="token", **TIMM))
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    opened = open_checkpoint(f"{tmp_path / 'file.pth'}?num_heads=2")
    assert_close(opened.encoder(IMAGES), theirs(IMAGES))
    assert any("rotary positions (a base of 100) are assumed" in note for note in opened.notes)


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_a_recipe_goes_on_from_it(gated: bool, tmp_path: Path) -> None:
    """With the name that `inspect` shows; images may have another size."""
    torch.save(of_the_authors(gated)[0], tmp_path / "released.pth")
    start = f"{tmp_path / 'released.pth'}?num_heads=2"
    encoder = open_checkpoint(start).encoder
    shape: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    shape["mlp_ratio"] = 3.0 if gated else 2.0
    config = EncoderConfig(name=encoder.architecture, img_size=(24, 40), global_pool="token", **shape)
    images = torch.randn(2, 3, 24, 40)
    assert_close(load_donor(start, config).eval()(images), encoder(images))
    with pytest.raises(UserError, match=r"do not fit|EvaBlock with SiLU"):
        load_donor(start, EncoderConfig(name="vit_small_patch16_dinov3", img_size=32, **shape))
