"""What weights tell of their network, as timm's arguments."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from layergraft.errors import UserError

HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
LAYER_SCALE = 1e-5  # any number: the weights replace it


def _mlp_ratio(hidden: int, width: int) -> float:
    """A ratio whose product with `width` timm rounds down to `hidden`."""
    ratio = hidden / width
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _patch(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Channels and patch size, of a linear patch projection or a conv stem."""
    if "patch_embed.proj.weight" in weights:
        _, channels, patch, _ = weights["patch_embed.proj.weight"].shape
        return {"in_chans": channels, "patch_size": patch}
    return {"in_chans": weights["patch_embed.proj.0.weight"].shape[1], "patch_size": 16, "stem": "conv"}


def _grid(weights: dict[str, Tensor], patch: int, name: str) -> tuple[int, bool]:
    """(side of the grid of patches, whether the tokens before them have a position too)."""
    positions = weights["pos_embed"].shape[1]
    prefix = sum(weights[key].shape[1] for key in ("cls_token", "reg_token") if key in weights)
    for patches in (positions - prefix, positions):
        side = math.isqrt(max(patches, 0))
        if side and side * side == patches:
            return side, patches != positions or not prefix
    raise UserError(f"{name!r} has {positions} positions, which form no square.", "Only square images are known.")


def infer_architecture(
    weights: dict[str, Tensor], name: str, known: dict[str, Any]
) -> tuple[str, dict[str, Any], list[str]]:
    """The model and arguments that fit some weights.

    Args:
        weights: with timm's names.
        name: the file, for messages.
        known: `num_heads`, where it is known; weights do not tell it.

    Returns:
        (timm's model name, arguments of `create_model`, what was assumed).

    Raises:
        UserError: the weights do not tell, or lack what every ViT has.
    """
    needed = ("pos_embed", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    missing = [key for key in needed if key not in weights]
    if missing:
        raise UserError(f"{name!r} lacks {', '.join(missing)}: it is no ViT with learned or fixed positions.")
    width = weights["pos_embed"].shape[2]
    notes = []
    heads = known.get("num_heads", HEADS_BY_WIDTH.get(width))
    if heads is None:
        raise UserError(f"{name!r} does not say how many heads it has.", f"Append it: {name}?num_heads=…")
    if "num_heads" not in known:
        notes.append(f"num_heads {heads} is assumed from the width {width}; else append ?num_heads=….")
    arguments = _patch(weights)
    side, embed_prefix = _grid(weights, arguments["patch_size"], name)
    hidden, gate = weights["blocks.0.mlp.fc1.weight"].shape[0], weights["blocks.0.mlp.fc2.weight"].shape[1]
    arguments |= {
        "img_size": side * arguments["patch_size"],
        "embed_dim": width,
        "depth": 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        "num_heads": heads,
        "mlp_ratio": _mlp_ratio(hidden, width),
        "class_token": "cls_token" in weights,
        "global_pool": "token" if "cls_token" in weights and "fc_norm.weight" not in weights else "avg",
        "fc_norm": "fc_norm.weight" in weights,
    }
    optional = {
        "reg_tokens": weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        "no_embed_class": not embed_prefix,
        "init_values": LAYER_SCALE if "blocks.0.ls1.gamma" in weights else 0,
        "pre_norm": "norm_pre.weight" in weights,
        "qk_norm": "blocks.0.attn.q_norm.weight" in weights,
    }
    arguments |= {key: value for key, value in optional.items() if value}
    if "blocks.0.attn.qkv.bias" not in weights:
        arguments["qkv_bias"] = False
    # timm's arguments ask for neither a gated MLP nor the eps of CLIP, whose mark is a norm in front of the blocks.
    if hidden == 2 * gate:
        return "vit_giant_patch14_dinov2", arguments, notes
    return ("vit_base_patch16_clip_224" if "pre_norm" in arguments else "vit_base_patch16_224"), arguments, notes
