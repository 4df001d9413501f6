import math

import pytest
import torch

from layergraft.analysis.attention import attention_maps, patch_attention
from layergraft.analysis.attention_distance import entropy, mean_distance, patch_distances
from layergraft.config.encoder import EncoderConfig
from layergraft.encoders.vit import Encoder, create_encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    config = EncoderConfig(name="vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=24, depth=2, num_heads=3)
    return create_encoder(config, 0).eval()


def test_distance_of_one_hot_attention() -> None:
    distances = patch_distances((3, 4), 10)
    to_first = torch.zeros(1, 1, 12, 12)
    to_first[..., 0] = 1
    by_hand = [math.hypot(10 * r, 10 * c) for r in range(3) for c in range(4)]
    assert abs(float(mean_distance(to_first, distances)) - sum(by_hand) / 12) < 1e-5
    to_itself = torch.eye(12)[None, None]
    assert float(mean_distance(to_itself, distances)) == 0
    assert float(entropy(to_itself)) == 0


def test_distance_of_uniform_attention() -> None:
    """Two patches side by side: half of the attention stays, half goes 16 pixels far."""
    uniform = torch.full((5, 2, 2, 2), 0.5)
    assert torch.allclose(mean_distance(uniform, patch_distances((1, 2), 16)), torch.tensor([8.0, 8.0]))
    assert torch.allclose(entropy(torch.full((1, 1, 8, 8), 1 / 8)), torch.tensor([3.0]))


def test_maps_are_what_the_block_uses(encoder: Encoder) -> None:
    """The output of the first attention layer, made again from the map and the values."""
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    maps = attention_maps(encoder, images)
    assert len(maps) == 2
    assert torch.allclose(maps[0].sum(-1), torch.ones(2, 3, 10), atol=1e-6)
    block = encoder.vit.blocks[0]
    tokens = encoder.tokens(images)
    normed = block.norm1(tokens)
    values = block.attn.qkv(normed).reshape(2, 10, 3, 3, 8)[:, :, 2].transpose(1, 2)
    expected = block.attn.proj((maps[0] @ values).transpose(1, 2).reshape(2, 10, 24))
    assert torch.allclose(block.attn(normed), expected, atol=1e-6)
    own = patch_attention(encoder, maps[0])
    assert own.shape == (2, 3, 9, 9)
    assert torch.allclose(own.sum(-1), torch.ones(2, 3, 9), atol=1e-6)
