"""One identity of an encoder: it changes with whatever changes features, and with nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import RmsNorm
from torch import nn

from layergraft import load_encoder
from layergraft.config.encoder import EncoderConfig
from layergraft.encoders.adapt import resize_encoder, set_norm_eps
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.drop_path import install_drop_path
from layergraft.encoders.identity import encoder_identity
from layergraft.encoders.vit import Encoder, create_encoder

TINY = EncoderConfig(
    name="vit_small_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, in_chans=1
)


def tiny() -> Encoder:
    return create_encoder(TINY, seed=3).eval()


def mean(encoder: Encoder) -> None:
    encoder.mean = (0.4,)


def std(encoder: Encoder) -> None:
    encoder.std = (0.2,)


def pooling(encoder: Encoder) -> None:
    encoder.vit.global_pool = "avg"


def eps(encoder: Encoder) -> None:
    set_norm_eps(encoder, 1e-3)


def heads(encoder: Encoder) -> None:
    attn = encoder.vit.blocks[1].attn
    attn.num_heads, attn.head_dim, attn.scale = 4, 6, 6**-0.5


def activation(encoder: Encoder) -> None:
    encoder.vit.blocks[0].mlp.act = nn.GELU("tanh")


def weight(encoder: Encoder) -> None:
    encoder.vit.blocks[1].mlp.fc2.bias.data[3] += 1e-3


@pytest.mark.parametrize("change", [mean, std, pooling, eps, heads, activation, weight])
@torch.no_grad()
def test_what_changes_features_changes_the_identity(change: Callable[[Encoder], None]) -> None:
    encoder = tiny()
    changed = copy.deepcopy(encoder)
    change(changed)
    assert encoder_identity(changed) != encoder_identity(encoder)


def test_eps_of_rms_norms_counts() -> None:
    """Their `repr` does not show it."""
    encoder = tiny()
    encoder.vit.norm = RmsNorm(24, eps=1e-6)
    before = encoder_identity(encoder)
    encoder.vit.norm.eps = 1e-2
    assert encoder_identity(encoder) != before


def test_image_size_counts_though_weights_are_equal() -> None:
    encoder = create_encoder(TINY, seed=3)
    with torch.no_grad():
        encoder.vit.pos_embed.zero_()
    larger = resize_encoder(copy.deepcopy(encoder), 24, "tiny", lambda _: None)
    assert encoder_identity(larger) != encoder_identity(encoder)


def test_training_alone_does_not_count() -> None:
    encoder = tiny()
    before = encoder_identity(encoder)
    install_drop_path(encoder.train(), 0.1)
    assert encoder_identity(encoder) == before


def test_a_saved_encoder_is_the_same_and_its_config_counts(tmp_path: Path) -> None:
    encoder = tiny()
    save_encoder(encoder, tmp_path, {})
    assert encoder_identity(load_encoder(tmp_path)) == encoder_identity(encoder)
    config = json.loads((tmp_path / "config.json").read_text())
    for section, key, value in (
        ("pretrained_cfg", "mean", [0.1]),
        ("pretrained_cfg", "std", [0.1]),
        ("model_args", "global_pool", "avg"),
        ("model_args", "num_heads", 4),
    ):
        changed = config | {section: config[section] | {key: value}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        assert encoder_identity(load_encoder(tmp_path)) != encoder_identity(encoder), key
