"""Training checkpoints of DINO, iBOT, DINOv2 and DINOv3: `teacher` and `student`, each a backbone and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraft.encoders.foreign_formats import dinov2, dinov3
from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    explained,
    others,
    summary,
    take,
    take_encoder,
    tensors,
    without,
)
from layergraft.encoders.foreign_formats.refusals import refuse_known
from layergraft.encoders.safe_load import Weights

_PATCHES = "backbone.patch_embed.proj.weight"
_HEADS = ("head", "dino_head", "ibot_head")


def read_self_distillation(content: Content, name: str) -> Foreign | None:
    """Read the backbones of both sides, the teacher's first; None where there is no such side."""
    sides = {side: tensors(content[side]) for side in ("teacher", "student") if isinstance(content.get(side), Mapping)}
    if not any(_PATCHES in weights for weights in sides.values()):
        return None
    kind = _kind(list(sides.values()))
    format_name = f"{kind} training checkpoint"
    encoders: dict[str, Weights] = {}
    arguments: dict[str, Any] = {}
    unused = others(without(content, *sides), name, format_name)
    for side, weights in sides.items():
        left = dict(weights)
        backbone = take(left, "backbone.")
        if kind != "DINOv3":
            refuse_known(backbone, name)
        for head in _HEADS:
            unused += summary(take(left, f"{head}."), f"{side}.{head}")
        if kind == "DINOv2":
            encoders[side], more, arguments = dinov2.take_backbone(backbone)
            unused += more
        elif kind == "DINOv3":
            encoders[side], more, arguments = dinov3.take_backbone(backbone, name)
            unused += more
        else:
            unused += summary(take(backbone, "masked_embed"), "mask token")
            encoders[side] = take_encoder(backbone)
        explained(left | {f"backbone.{key}": value for key, value in backbone.items()}, name, format_name)
    return Foreign(format=format_name, encoders=encoders, unused=unused, arguments=arguments)


def _kind(sides: list[Weights]) -> str:
    if any(dinov3.is_dinov3(take(dict(weights), "backbone.")) for weights in sides):
        return "DINOv3"
    names = {name for weights in sides for name in weights}
    if any(name.startswith(("dino_head.", "backbone.mask_token", "backbone.register_tokens")) for name in names):
        return "DINOv2"
    return "iBOT" if "backbone.masked_embed" in names or any("last_layer2" in name for name in names) else "DINO"
