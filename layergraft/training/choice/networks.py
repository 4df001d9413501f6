"""The networks that are chosen from, and how many operations an image takes in each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from layergraft.config.encoder import EncoderConfig, height_and_width

KEPT = 0.25  # of a view's patches, in the contrastive stage: more steps in the same time, chosen on held-out emoji
SEEN = 0.25  # of the patches, by MAE's encoder


@dataclass(frozen=True, kw_only=True)
class Network:
    """A Vision Transformer of timm's, at the size it is worth.

    Args:
        name: timm's.
        width: of a token.
        depth: blocks.
        heads: attention heads.
        side: of its images in pixels, where those have as many.
        grid: patches along a side, about.
        decoder: width and depth of MAE's decoder.
        lr: peak learning rate at a batch of 256, of MAE and of the contrastive stage.
    """

    name: str
    width: int
    depth: int
    heads: int
    side: int
    grid: int
    decoder: tuple[int, int]
    lr: tuple[float, float]


_TINY = Network(
    name="vit_tiny_patch16_224",
    width=192, depth=6, heads=3, side=64, grid=8, decoder=(96, 2), lr=(3e-3, 4e-3),
)  # fmt: skip
NETWORKS = (
    _TINY,
    Network(name=_TINY.name, width=192, depth=12, heads=3, side=96, grid=8, decoder=(96, 2), lr=(2e-3, 3e-3)),
    Network(
        name="vit_small_patch16_224",
        width=384, depth=12, heads=6, side=128, grid=8, decoder=(192, 4), lr=(1e-3, 1.5e-3),
    ),
    Network(
        name="vit_small_patch16_224",
        width=384, depth=12, heads=6, side=224, grid=14, decoder=(256, 4), lr=(5e-4, 1e-3),
    ),
    Network(
        name="vit_base_patch16_224",
        width=768, depth=12, heads=12, side=224, grid=14, decoder=(512, 4), lr=(3e-4, 5e-4),
    ),
)  # fmt: skip
"""From what two cores of a CPU train to what a GPU does in hours."""


def sizes(network: Network, side: int) -> tuple[int, int]:
    """(side of the encoder's input, side of a patch) in pixels, for images with a shorter side of `side` (0: unknown).

    Images are not enlarged: what they do not hold cannot be learned, and costs as much.
    """
    side = min(side or network.side, network.side)
    patch = max(2, round(side / network.grid))
    return patch * max(2, side // patch), patch


def encoder_config(network: Network, side: int, channels: int) -> EncoderConfig:
    """The encoder of a recipe."""
    img_size, patch = sizes(network, side)
    return EncoderConfig(
        name=network.name,
        img_size=img_size,
        in_chans=channels,
        patch_size=patch,
        embed_dim=network.width,
        depth=network.depth,
        num_heads=network.heads,
    )


def _blocks(width: int, depth: int, tokens: float) -> float:
    """Operations of some blocks, forwards: products of q, k, v, projection and MLP, and attention."""
    return depth * (24 * width**2 * tokens + 4 * tokens**2 * width)


def patches(encoder: EncoderConfig) -> int:
    """Patches of an image."""
    return math.prod(side // (encoder.patch_size or 16) for side in height_and_width(encoder.img_size))


def image_flops(network: Network, encoder: EncoderConfig) -> dict[str, float]:
    """Stage -> operations that an image takes in it, forwards and backwards (twice as many).

    Args:
        network: width and depth, and MAE's decoder.
        encoder: sizes of image and patch.
    """
    tokens = patches(encoder)
    view = _blocks(network.width, network.depth, KEPT * tokens)
    heads = 2 * (network.width * 4 * network.width + 16 * network.width**2 + 2 * 4 * network.width * 128)
    masked = _blocks(network.width, network.depth, SEEN * tokens)
    return {
        "mae": 3 * (masked + _blocks(*network.decoder, tokens)),
        # Two views, each forwards through the momentum encoder too.
        "heads": 2 * (2 * view + 4 * heads),
        "upper": 2 * (2 * view + 4 * heads),
        "graft": 2 * 4 * (view + heads),
    }
