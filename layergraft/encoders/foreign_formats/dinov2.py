"""DINOv2: a mask token of two dimensions, LayerScale, perhaps registers and a gated MLP."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    Rule,
    explained,
    inner,
    others,
    renamed,
    summary,
    take,
    take_encoder,
)
from layergraft.encoders.safe_load import Weights

_TIMM: tuple[Rule, ...] = (
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # training wraps chunks of blocks, which keep their numbers
)


def without_register_positions(encoder: Weights, registers: Tensor) -> tuple[Weights, dict[str, Any]]:
    """Registers that have no position: timm knows them together with a class token that has none, which takes its own.

    Args:
        encoder: with timm's names; `pos_embed` is of the class token and the patches.
        registers: of shape (1, K, D).

    Returns:
        (weights with `reg_token`, arguments of `infer_architecture`).
    """
    positions, token = encoder.get("pos_embed"), encoder.get("cls_token")
    if positions is None or token is None or positions.ndim != 3 or token.shape != positions[:1, :1].shape:
        return encoder | {"reg_token": registers}, {}  # refused where the architecture is found
    moved = {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}
    return encoder | moved | {"reg_token": registers}, {"no_embed_class": True}


def take_backbone(left: Weights) -> tuple[Weights, tuple[str, ...], dict[str, Any]]:
    """Move DINOv2's backbone out of `left`.

    Returns:
        (weights with timm's names, what is left aside, arguments of `infer_architecture`).
    """
    unused = summary(take(left, "mask_token"), "mask token")
    registers = left.pop("register_tokens", None)
    encoder = renamed(take_encoder(left), _TIMM)
    if registers is None:
        return encoder, unused, {}
    encoder, arguments = without_register_positions(encoder, registers)
    return encoder, unused, arguments


def read_dinov2(content: Content, name: str) -> Foreign | None:
    """Read a released backbone; None where there are neither registers nor a mask token of two dimensions."""
    left, beside = inner(content)
    mask = left.get("mask_token")
    if "register_tokens" not in left and (mask is None or mask.ndim != 2):
        return None
    encoder, unused, arguments = take_backbone(left)
    explained(left, name, "DINOv2")
    return Foreign(
        format="DINOv2",
        encoders={"backbone": encoder},
        unused=unused + others(beside, name, "DINOv2"),
        arguments=arguments,
    )
