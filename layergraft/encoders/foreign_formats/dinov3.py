"""DINOv3: rotary positions alone, registers, LayerScale, no key bias; as its authors, transformers or timm write it."""

from __future__ import annotations

from typing import Any

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    Rule,
    explained,
    inner,
    joined,
    others,
    renamed,
    summary,
    take,
    take_encoder,
)
from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError

_AUTHORS = "DINOv3"
_TRANSFORMERS = "Hugging Face DINOv3"
_TIMM = "DINOv3 with timm's names"
_ASSUMED = "DINOv3's rotary positions (a base of 100) are assumed: a file does not tell."
_RULES: tuple[Rule, ...] = (
    # transformers: on disk without `model.`, in memory with it
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    # its authors
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_QKV = (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj.")


def is_dinov3(weights: Weights) -> bool:
    """Whether weights without a prefix are of a DINOv3 backbone, by whatever names."""
    return _names(weights) is not None


def _names(weights: Weights) -> str | None:
    if "pos_embed" in weights or "rope.freqs" in weights:
        return None
    if "storage_tokens" in weights or "rope_embed.periods" in weights:
        return _AUTHORS
    if "embeddings.patch_embeddings.weight" in weights and "embeddings.register_tokens" in weights:
        return _TRANSFORMERS
    timm = {"cls_token", "reg_token", "norm.weight", "blocks.0.gamma_1", "blocks.0.attn.qkv.weight"} <= weights.keys()
    return _TIMM if timm else None


def take_backbone(left: Weights, name: str) -> tuple[Weights, tuple[str, ...], dict[str, Any]]:
    """Move DINOv3's backbone out of `left`.

    Returns:
        (weights with timm's names, what is left aside, arguments of `infer_architecture`).

    Raises:
        UserError: keys have a bias, or queries one and values none.
    """
    periods = summary(take(left, "rope_embed.periods"), "periods of the rotary positions, which are computed")
    taken = renamed(dict(left), _RULES)
    # Without a gate transformers has the same names for two linears.
    if not any(".mlp.fc1_g." in key for key in taken):
        taken = {key.replace(".mlp.fc1_x.", ".mlp.fc1."): value for key, value in taken.items()}
    taken = joined(taken, tuple(f"{part}weight" for part in _QKV), ".attn.qkv.weight")
    unused = (
        periods + summary(take(taken, "mask_token"), "mask token") + summary(take(taken, "local_cls_norm."), "norm")
    )
    encoder = _two_biases(take_encoder(taken), name)
    left.clear()
    left.update(taken)
    return encoder, unused, {"rotary": "dinov3"}


def _two_biases(encoder: Weights, name: str) -> Weights:
    """Biases of queries and values, which timm's network has apart; keys have none."""
    result: Weights = {}
    for key, value in encoder.items():
        if key.endswith(".attn.qkv.bias"):
            query, of_key, of_value = value.chunk(3)
            mask = encoder.get(f"{key}_mask")
            masked = mask is not None and not bool(mask.chunk(3)[1].nan_to_num(0).any())
            if not masked and bool(of_key.nan_to_num(0).any()):
                raise UserError(f"{name!r} has a bias of the keys, which DINOv3 has not: {key}.")
            result |= {key.replace("qkv.bias", "q_bias"): query, key.replace("qkv.bias", "v_bias"): of_value}
        elif ".attention.q_proj.bias" in key or ".attention.v_proj.bias" in key:
            result[key.replace(".attention.", ".attn.").replace("_proj.bias", "_bias")] = value
        elif not key.endswith(".attn.qkv.bias_mask"):
            result[key] = value
    return result


def read_dinov3(content: Content, name: str) -> Foreign | None:
    """Read a backbone; None where neither registers nor angles are those of DINOv3."""
    left, beside = inner(content)
    names = _names(left)
    if names is None:
        return None
    encoder, unused, arguments = take_backbone(left, name)
    explained(left, name, names)
    return Foreign(
        format=names,
        encoders={"backbone": encoder},
        unused=unused + others(beside, name, names),
        arguments=arguments,
        notes=(_ASSUMED,) if names == _TIMM else (),
    )
