"""Attention layers form the matrix of scores where that is quicker."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from layergraft.config.encoder import EncoderConfig
from layergraft.encoders.attention import LARGEST, is_matrix_faster, matrix_attention
from layergraft.encoders.vit import Encoder, create_encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    config = EncoderConfig(
        name="vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1, embed_dim=32, depth=2, num_heads=2
    )
    return create_encoder(config, 0).eval()


def test_the_same_features_without_the_fused_call(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(3, 1, 32, 32)
    fused = encoder(images)

    def refused(*_: Tensor, **__: float) -> Tensor:
        raise AssertionError("fused attention was called")

    monkeypatch.setattr(functional, "scaled_dot_product_attention", refused)
    with matrix_attention(encoder):
        torch.testing.assert_close(encoder(images), fused, atol=1e-5, rtol=1e-5)
    with pytest.raises(AssertionError, match="fused"):
        encoder(images)


def test_layers_are_fused_again_after_an_error(encoder: Encoder) -> None:
    class Interrupted(Exception):
        """What ends a step."""

    encoder.vit.blocks[0].attn.fused_attn = False  # as its owner wants it
    with pytest.raises(Interrupted), matrix_attention(encoder):
        raise Interrupted
    assert [block.attn.fused_attn for block in encoder.vit.blocks] == [False, True]
    encoder.vit.blocks[0].attn.fused_attn = True


@pytest.mark.parametrize(
    ("device", "products", "tokens", "faster"),
    [
        ("cpu", torch.bfloat16, 17, True),
        ("cpu", torch.bfloat16, LARGEST + 1, False),
        ("cpu", None, 17, False),
        ("cuda", torch.bfloat16, 17, False),
    ],
)
def test_bfloat16_on_a_processor_alone(device: str, products: torch.dtype | None, tokens: int, faster: bool) -> None:
    assert is_matrix_faster(torch.device(device), products, tokens) is faster
