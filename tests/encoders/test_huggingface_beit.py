"""BEiT and data2vec of transformers: query and value have a bias, keys have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from test_huggingface import SHAPE, images, spread

from layergraft import load_encoder
from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

transformers = pytest.importorskip("transformers")


def build(kind: str, **changes: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**(SHAPE | changes))
    return spread(getattr(transformers, f"{kind}Model")(config))


@pytest.mark.parametrize("kind", ["Beit", "Data2VecVision"])
@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
@torch.no_grad()
def test_biases_without_a_key_bias_are_kept(kind: str, layer_scale: float, tmp_path: Path) -> None:
    arguments = {"use_absolute_position_embeddings": True, "use_mean_pooling": False}
    model = build(kind, layer_scale_init_value=layer_scale, **arguments)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "bare.safetensors")
    expected = model(images()).last_hidden_state
    checkpoint = open_checkpoint(f"{tmp_path / 'bare.safetensors'}?num_heads=2")
    encoder = checkpoint.encoder
    assert "BEiT or data2vec" in checkpoint.notes[0]
    assert_close(encoder.norm(encoder.run_blocks(encoder.tokens(images()))[0]), expected, 1e-4)
    assert_close(encoder(images()), expected[:, 0], 1e-4)
    (tmp_path / "bare.safetensors").rename(tmp_path / "model.safetensors")
    assert_close(load_encoder(tmp_path)(images()), expected[:, 0], 1e-4)


@torch.no_grad()
def test_a_norm_behind_the_mean_of_the_patches_is_part_of_the_encoder(tmp_path: Path) -> None:
    model = build("Beit", use_absolute_position_embeddings=True)
    model.save_pretrained(tmp_path)
    assert_close(load_encoder(tmp_path)(images()), model(images()).pooler_output, 1e-4)


@pytest.mark.parametrize("kind", ["Beit", "Data2VecVision"])
@pytest.mark.parametrize("shared", ["use_shared_relative_position_bias", "use_relative_position_bias"])
def test_relative_positions_are_refused(kind: str, shared: str, tmp_path: Path) -> None:
    build(kind, use_absolute_position_embeddings=True, **{shared: True}).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="relative position biases"):
        load_encoder(f"{tmp_path / 'bare.safetensors'}?num_heads=2")
    build(kind).save_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="pos_embed"):
        load_encoder(tmp_path / "none")


@pytest.mark.parametrize("part", ["query.weight", "value.bias", "query.bias"])
def test_a_bias_or_matrix_that_stands_alone_is_refused(part: str, tmp_path: Path) -> None:
    """Only a key bias may be missing: what cannot be joined is not left out in silence."""
    weights = transformers.ViTModel(transformers.ViTConfig(**SHAPE)).state_dict()
    names = {"query.weight": "q_proj.weight", "value.bias": "v_proj.bias", "query.bias": "q_proj.bias"}
    for layer in range(2):
        del weights[f"layers.{layer}.attention.{names[part]}"]
    torch.save(weights, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"attn\.qkv|attention\.[qkv]_proj"):
        load_encoder(f"{tmp_path / 'file.pth'}?num_heads=2")
