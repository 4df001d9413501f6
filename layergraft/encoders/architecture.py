"""What weights tell of their network, as timm's arguments."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.errors import UserError
from layergraft.runs.readable import counted

HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_DIMENSIONS = {
    "pos_embed": 3,
    "cls_token": 3,
    "reg_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
    "blocks.0.mlp.fc2.weight": 2,
}
LAYER_SCALE = 1e-5  # any number: the weights replace it


def _mlp_ratio(hidden: int, width: int) -> float:
    """A ratio whose product with `width` timm rounds down to `hidden`."""
    ratio = hidden / width
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _patch(weights: dict[str, Tensor], name: str) -> dict[str, Any]:
    """Channels and patch size, of a linear patch projection or a conv stem."""
    patches, stem = weights.get("patch_embed.proj.weight"), weights.get("patch_embed.proj.0.weight")
    if patches is None:
        if stem is None or stem.ndim != 4:
            raise UserError(f"{name!r} lacks patch_embed.proj.weight: it is no ViT, or not the whole of one.")
        return {"in_chans": stem.shape[1], "patch_size": 16, "stem": "conv"}
    shape = tuple(patches.shape)  # (D, C, P, P)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise UserError(
            f"{name!r} has a patch projection of shape {shape}.", "Only square patches of still images are known."
        )
    return {"in_chans": shape[1], "patch_size": shape[2]}


def _image_size(rows: int, columns: int, patch_size: int) -> ImageSize:
    """Side of a square image, or height and width, in pixels."""
    return rows * patch_size if rows == columns else (rows * patch_size, columns * patch_size)


def _grid(weights: dict[str, Tensor], name: str, known: dict[str, Any]) -> tuple[tuple[int, int], bool, list[str]]:
    """Find the grid of patches.

    Args:
        weights: with timm's names.
        name: the file, for messages.
        known: `grid` (rows, columns) and `no_embed_class`, where the format or a configuration tells them.

    Returns:
        ((rows, columns), whether the tokens in front of the patches have a position too, what was assumed).

    Raises:
        UserError: nothing tells the grid, and it is not square or could have several sides.
    """
    positions = weights["pos_embed"].shape[1]
    prefix = sum(weights[key].shape[1] for key in ("cls_token", "reg_token") if key in weights)
    # Whether prefix tokens have positions -> how many patches there are then.
    patches = {True: positions - prefix, False: positions} if prefix else {True: positions}
    if known.get("no_embed_class") and prefix:
        patches.pop(True)
    grid = known.get("grid")
    if grid is not None:
        rows, columns = grid
        fitting = [embeds for embeds, count in patches.items() if count == rows * columns]
        if not fitting:
            raise UserError(
                f"{name!r} has {positions} positions, which {rows}×{columns} patches and "
                f"{counted(prefix, 'token')} do not fill.",
                "Weights and configuration are of different encoders.",
            )
        return (rows, columns), fitting[0], []
    sides = {embeds: math.isqrt(count) for embeds, count in patches.items() if count > 0}
    sides = {embeds: side for embeds, side in sides.items() if side**2 == patches[embeds]}
    if not sides:
        raise UserError(
            f"{name!r} has {positions} positions, which form no square.",
            f"If its images were wider or higher, append their size in pixels: {name}?img_size=HEIGHT,WIDTH",
        )
    if len(sides) > 1:
        raise UserError(
            f"{name!r} has {positions} positions and {counted(prefix, 'token')} in front of the patches: "
            f"{sides[True]}×{sides[True]} patches with positions for these tokens, or {sides[False]}×{sides[False]}.",
            "Put timm's config.json beside the weights, as model.safetensors: it tells (`no_embed_class`).",
        )
    embeds, side = next(iter(sides.items()))
    assumed = f"Square images ({side}×{side} patches) are assumed: a file does not tell (img_size=HEIGHT,WIDTH does)."
    return (side, side), embeds, [assumed] if side > 1 else []


def grid_of_size(weights: dict[str, Tensor], size: ImageSize | None) -> tuple[int, int] | None:
    """Rows and columns of patches of images that are not square, where the weights have a position for each of them.

    Args:
        weights: with timm's names.
        size: what the user says of the images; None where nothing is said.
    """
    if size is None:
        return None
    positions, projection = weights.get("pos_embed"), weights.get("patch_embed.proj.weight")
    height, width = height_and_width(size)
    if positions is None or projection is None or projection.ndim != 4 or height == width:
        return None
    rows, columns = height // projection.shape[2], width // projection.shape[3]
    prefix = sum(weights[key].shape[1] for key in ("cls_token", "reg_token") if key in weights)
    return (rows, columns) if rows * columns in (positions.shape[1], positions.shape[1] - prefix) else None


def _lacking(weights: dict[str, Tensor], missing: list[str], name: str) -> UserError:
    """What is to be said of weights without what every plain ViT has."""
    block = [key for key in weights if key.startswith("blocks.0.") and key.endswith("weight")]
    if missing == ["pos_embed"] or not block:
        return UserError(f"{name!r} lacks {', '.join(missing)}: it is no ViT with learned or fixed positions.")
    return UserError(
        f"{name!r} has blocks of another kind than a plain ViT's: it lacks {', '.join(missing)}; a block has "
        f"{', '.join(block[:8])}{' …' if len(block) > 8 else ''}.",
        "Put timm's config.json beside the weights, as model.safetensors: it tells the model.",
    )


def _heads(width: int, name: str, known: dict[str, Any]) -> tuple[int, list[str]]:
    """Attention heads, and what was assumed of them."""
    heads = known.get("num_heads", HEADS_BY_WIDTH.get(width))
    if heads is None:
        raise UserError(f"{name!r} does not say how many heads it has.", f"Append it: {name}?num_heads=…")
    assumed = f"num_heads {heads} is assumed from the width {width}; else append ?num_heads=…."
    return heads, [] if "num_heads" in known else [assumed]


def _depth(weights: dict[str, Tensor]) -> int:
    return 1 + max(int(block[1]) for key in weights if (block := re.match(r"blocks\.(\d{1,4})\.", key)))


def _dinov3(weights: dict[str, Tensor], name: str, known: dict[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """What `infer_architecture` gives of a DINOv3, whose positions are in no weight; its feature is the class token."""
    needed = (
        "cls_token",
        "norm.weight",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc2.weight",
    )
    missing = [key for key in needed if key not in weights]
    if missing:
        raise UserError(f"{name!r} lacks {', '.join(missing)}: it is no DINOv3.")
    width, hidden = weights["blocks.0.mlp.fc2.weight"].shape
    gated = "blocks.0.mlp.fc1_g.weight" in weights
    usual = "silu" if gated else "gelu"
    if known.get("act_layer", usual) != usual:
        raise UserError(f"{name!r} has an MLP with {known['act_layer']}, timm's DINOv3 has {usual}.")
    heads, notes = _heads(width, name, known)
    patch = _patch(weights, name)
    rows, columns = known.get("grid", (224 // patch["patch_size"],) * 2)
    arguments = patch | {
        "img_size": _image_size(rows, columns, patch["patch_size"]),
        "embed_dim": width,
        "depth": _depth(weights),
        "num_heads": heads,
        "mlp_ratio": _mlp_ratio(hidden, width),
        "num_reg_tokens": weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        "init_values": LAYER_SCALE if "blocks.0.gamma_1" in weights else None,
        "global_pool": "token",
    }
    # What the names below have by themselves is left out, so that a recipe can say the rest.
    if known.get("rope_temperature", 100) != 100:
        arguments["rope_temperature"] = known["rope_temperature"]
    if gated and hidden % 8:
        arguments["swiglu_align_to"] = 1
    biased = "_qkvb" * ("blocks.0.attn.q_bias" in weights)
    return f"vit_small{'_plus' * gated}_patch16_dinov3{biased}", arguments, notes


def infer_architecture(
    weights: dict[str, Tensor], name: str, known: dict[str, Any]
) -> tuple[str, dict[str, Any], list[str]]:
    """The model and arguments that fit some weights.

    Args:
        weights: with timm's names.
        name: the file, for messages.
        known: what weights do not tell, where it is known: `num_heads`, `grid` (rows, columns of patches),
            `no_embed_class` (tokens in front of the patches have no position), `act_layer` (timm's name of the
            activation; of a gated MLP it is its own), `rotary` (`dinov3`) and `rope_temperature`.

    Returns:
        (timm's model name, arguments of `create_model`, what was assumed).

    Raises:
        UserError: the weights do not tell, or lack what every ViT has.
    """
    if known.get("rotary") == "dinov3":
        return _dinov3(weights, name, known)
    needed = ("pos_embed", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    missing = [key for key in needed if key not in weights]
    if missing:
        raise _lacking(weights, missing, name)
    for key, dimensions in _DIMENSIONS.items():
        if key in weights and (weights[key].ndim != dimensions or not weights[key].numel()):
            raise UserError(f"{name!r}: {key} has the shape {tuple(weights[key].shape)}, which no ViT of timm has.")
    width = weights["pos_embed"].shape[2]
    heads, notes = _heads(width, name, known)
    arguments = _patch(weights, name)
    (rows, columns), embed_prefix, assumed = _grid(weights, name, known)
    notes += assumed
    hidden, gate = weights["blocks.0.mlp.fc1.weight"].shape[0], weights["blocks.0.mlp.fc2.weight"].shape[1]
    arguments |= {
        "img_size": _image_size(rows, columns, arguments["patch_size"]),
        "embed_dim": width,
        "depth": _depth(weights),
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
    if known.get("act_layer", "gelu") != "gelu" and hidden != 2 * gate:
        arguments["act_layer"] = known["act_layer"]
    # timm's arguments ask for neither a gated MLP nor the eps of CLIP, whose mark is a norm in front of the blocks.
    if hidden == 2 * gate:
        return "vit_giant_patch14_dinov2", arguments, notes
    return ("vit_base_patch16_clip_224" if "pre_norm" in arguments else "vit_base_patch16_224"), arguments, notes
