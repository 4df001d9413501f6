"""A block without what is not wanted, or is there already, against the whole block: values and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from layergraft.config import EncoderConfig
from layergraft.encoders.drop_path import DropPath
from layergraft.encoders.partial_block import block_of_projected, partial_block, take
from layergraft.encoders.vit import create_encoder
from layergraft.objectives.mae_decoder import MaeDecoder

SELECTIONS: dict[str, slice | Tensor] = {
    "class token": slice(0, 1),
    "patches": slice(1, None),
    "each its own": torch.tensor([[2, 5, 1], [6, 0, 3], [4, 2, 6], [1, 3, 5]]),
}
KINDS = {
    "plain": {"qkv_bias": True},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "layer scale": {"qkv_bias": True, "init_values": 0.1},
    "normed queries and keys": {"qkv_bias": True, "qk_norm": True},
    "normed attention": {"qkv_bias": True, "scale_attn_norm": True, "scale_mlp_norm": True},
}


def compare(
    block: nn.Module, selection: slice | Tensor, ours: Callable[..., Tensor] = partial_block, *arguments: Tensor
) -> None:
    """In double precision, so that only a mistake can make a difference."""
    block = block.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    tokens = torch.randn(4, 7, 24, generator=generator, dtype=torch.float64, requires_grad=True)
    leaves = [tokens, *block.parameters()]
    whole, part = take(block(tokens, *arguments), selection), ours(block, tokens, selection)
    assert part.shape == whole.shape
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)
    weight = torch.randn(whole.shape, generator=generator, dtype=torch.float64)
    expected, gradients = (torch.autograd.grad((x * weight).sum(), leaves) for x in (whole, part))
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_equals_the_whole_block(kind: dict[str, object], selection: slice | Tensor) -> None:
    compare(Block(24, 3, **kind), selection)


EVAS = {
    "DINOv3": {"init_values": 0.1, "rotate_half": True, "num_prefix_tokens": 3},
    "no biases": {"qkv_bias": False, "num_prefix_tokens": 3},
    "EVA-02": {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
    "Perception Encoder": {"attn_type": "rope", "init_values": 0.1, "attn_only_layer_scale": True},
    "normed queries": {"attn_type": "rope", "qk_norm": True, "qkv_fused": False},
    "fewer keys": {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1},  # computed whole; all heads turn alike
}


@pytest.mark.parametrize("selection", [slice(0, 1), slice(1, None)], ids=["class token", "patches"])
@pytest.mark.parametrize("turns", ["none", "of all", "of each", "of each head"])
@pytest.mark.parametrize("kind", EVAS.values(), ids=EVAS.keys())
def test_equals_the_whole_block_with_rotary_positions(kind: dict[str, object], turns: str, selection: slice) -> None:
    block = EvaBlock(24, 3, **kind)
    turns = "of each" if "num_kv_heads" in kind and turns == "of each head" else turns
    patches = 7 - block.attn.num_prefix_tokens
    shape = {"of all": (patches, 16), "of each": (4, 1, patches, 16), "of each head": (4, 3, patches, 16)}
    rotation = [torch.randn(shape[turns], dtype=torch.float64)] if turns != "none" else []
    called: list[int] = []
    block.attn.register_forward_pre_hook(lambda *_: called.append(1))

    def ours(block: nn.Module, tokens: Tensor, wanted: slice | Tensor) -> Tensor:
        called.clear()
        part = partial_block(block, tokens, wanted, *rotation)
        assert bool(called) == (selection.stop is None or "num_kv_heads" in kind), "computed whole, or in part"
        return part

    compare(block, selection, ours, *rotation)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_queries_keys_and_values_may_be_given(kind: dict[str, object]) -> None:
    def ours(block: Block, tokens: Tensor, _: slice | Tensor) -> Tensor:
        return block_of_projected(block, tokens, block.attn.qkv(block.norm1(tokens)))

    compare(Block(24, 3, **kind), slice(None), ours)


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_decoder_is_mask_tokens_positions_and_blocks(depth: int, prefix: int) -> None:
    generator = torch.Generator().manual_seed(0)
    decoder = MaeDecoder(20, (3, 2), 5, embed_dim=24, depth=depth, num_heads=3, prefix_tokens=prefix).double()
    keep, patches = torch.tensor([[4, 1], [0, 5], [2, 3]]), torch.tensor([[0, 2, 3], [4, 1, 2], [5, 0, 1]])
    latent = torch.randn(3, prefix + 2, 20, generator=generator, dtype=torch.float64)
    embedded = decoder.embed(latent)
    x = torch.cat([embedded[:, :prefix], decoder.mask_token.expand(3, 6, 24)], dim=1)
    for image, patch_indices in enumerate(keep.tolist()):
        for number, patch in enumerate(patch_indices):
            x[image, prefix + patch] = embedded[image, prefix + number]
    x = x + decoder.positions
    for block in decoder.blocks:
        x = block(x)
    whole = decoder.pred(decoder.norm(x))[:, prefix:]
    torch.testing.assert_close(decoder(latent, keep), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decoder(latent, keep, patches), take(whole, patches), rtol=1e-12, atol=1e-12)
    weights = list(decoder.parameters())
    expected, gradients = (torch.autograd.grad(y.square().sum(), weights) for y in (whole, decoder(latent, keep)))
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def test_a_dropped_branch_is_dropped() -> None:
    block = Block(24, 3, qkv_bias=True).train()
    block.drop_path1, block.drop_path2 = DropPath(0.5), DropPath(0.5)
    block.drop_path1.draw(torch.tensor([0.1, 0.9, 0.2, 0.8]))
    block.drop_path2.draw(torch.tensor([0.9, 0.1, 0.2, 0.8]))
    compare(block, slice(0, 1))


def test_other_kinds_of_blocks_are_computed_whole() -> None:
    compare(ResPostBlock(24, 3, qkv_bias=True), slice(0, 1))


@pytest.mark.parametrize(
    "kind", [{}, {"reg_tokens": 4}, {"class_token": False}], ids=["class token", "registers", "mean of patches"]
)
@pytest.mark.parametrize("start", [0, 1, 2])
def test_finish_is_blocks_norm_and_feature(kind: dict[str, object], start: int) -> None:
    config = EncoderConfig(
        name="vit_small_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, **kind
    )
    encoder = create_encoder(config, 0).double()
    tokens = torch.randn(3, encoder.num_patches + encoder.prefix_tokens, 32, dtype=torch.float64)
    whole = encoder.feature(encoder.norm(encoder.run_blocks(tokens, start)[0]))
    torch.testing.assert_close(encoder.features_from(tokens, start), whole, rtol=1e-12, atol=1e-12)
