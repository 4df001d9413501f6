"""MoCo v3 and layer-grafted files: online and momentum encoder, whose `head` is the projector; predictor."""

from __future__ import annotations

from layergraft.encoders.foreign_formats.foreign import Content, Foreign, explained, inner, others, take, take_encoder
from layergraft.encoders.safe_load import Weights

_SIDES = (("online", "base_encoder.", "projector."), ("momentum", "momentum_encoder.", "momentum.projector."))


def read_moco(content: Content, name: str) -> Foreign | None:
    """Read both encoders with their projectors; None where there is no `base_encoder`."""
    left, beside = inner(content)
    if not any(key.startswith("base_encoder.") for key in left):
        return None
    encoders: dict[str, Weights] = {}
    heads: Weights = {}
    for role, prefix, ours in _SIDES:
        side = take(left, prefix)
        if side:
            heads |= {ours + key: value for key, value in take(side, "head.").items()}
            encoders[role] = take_encoder(side)
            left |= {prefix + key: value for key, value in side.items()}
    heads |= {f"predictor.{key}": value for key, value in take(left, "predictor.").items()}
    explained(left, name, "MoCo v3")
    norm = encoders["online"].get("norm.weight")
    return Foreign(
        format="MoCo v3 or layer-grafted",
        encoders=encoders,
        heads=heads,
        unused=others(beside, name, "MoCo v3"),
        notes=("MoCo v3's own ViT-S has 12 heads: ?num_heads=12.",) if norm is not None and len(norm) == 384 else (),
    )
