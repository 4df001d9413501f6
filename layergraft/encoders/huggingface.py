"""Hugging Face's names of a ViT (`ViTModel`, `ViTMAEForPreTraining`, `ViTForImageClassification`) and timm's.

On disk transformers writes the names of its first ViT (`encoder.layer.0.attention.attention.query`), in memory its
modules have shorter ones (`layers.0.attention.q_proj`); both are read.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from layergraft.errors import UserError

Weights = dict[str, Tensor]
PATCHES = "embeddings.patch_embeddings.projection.weight"
LAYER_NORM_EPS = 1e-12  # of transformers' configurations, where none says otherwise
_ON_DISK = (  # name on disk -> name in memory; more than one may apply
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda match: f".attention.{match[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_TIMM = (  # name in memory -> timm's
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^layers\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
)


def _rename(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _join_qkv(weights: Weights) -> Weights:
    """Query, key and value, three tensors, become timm's one."""
    joined = {name: value for name, value in weights.items() if not re.search(r"\.attention\.[qkv]_proj\.", name)}
    for name in weights:
        if ".attention.q_proj." in name:
            parts = [weights.get(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            found = [part for part in parts if part is not None]
            if len(found) == 3:
                joined[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(found)
    return joined


def to_timm(weights: Weights) -> Weights:
    """Weights of a Hugging Face ViT without prefix, with timm's names; unknown names stay as they are."""
    in_memory = {_rename(name, _ON_DISK): value for name, value in weights.items()}
    return {_rename(name, _TIMM): value for name, value in _join_qkv(in_memory).items()}


def decoder_to_ours(weights: Weights) -> Weights:
    """Weights of `ViTMAEForPreTraining.decoder` with the names of `MaeDecoder`."""
    plain = {re.sub(r"^decoder_(encoder\.layer|layers)\.", "layers.", name): value for name, value in weights.items()}
    renamed = {re.sub(r"^decoder_", "", name): value for name, value in to_timm(plain).items()}
    return {("positions" if name == "pos_embed" else name): value for name, value in renamed.items()}


def from_timm(weights: Weights) -> Weights:
    """timm's names -> Hugging Face's on disk, which all versions of transformers read."""
    found: Weights = {}
    for name, value in weights.items():
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[name.replace("attn.qkv", f"attention.attention.{part}")] = rows.contiguous()
        else:
            found[name] = value
    rules = (
        (r"^(cls_token)$", r"embeddings.\1"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    )
    return {_rename(name, rules): value for name, value in found.items()}


def known_arguments(config: dict[str, Any], name: str) -> dict[str, Any]:
    """What a `config.json` of transformers tells that weights do not.

    Raises:
        UserError: it is another network, uses another activation, or has numbers that are none.
    """
    if config.get("model_type") not in ("vit", "vit_mae"):
        raise UserError(
            f"{name!r} is a {config.get('model_type')!r} of transformers, not a ViT.", "`vit` and `vit_mae` are read."
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{name!r} uses the activation {config['hidden_act']!r}; only `gelu` is known.")
    found: dict[str, Any] = {}
    for ours, theirs, usual in (
        ("num_heads", "num_attention_heads", 12),
        ("norm_eps", "layer_norm_eps", LAYER_NORM_EPS),
    ):
        value = config.get(theirs, usual)
        if not isinstance(value, type(usual) | int) or not 0 < value < math.inf:
            raise UserError(f"The config.json of {name!r} has {theirs} {value!r}, no positive number.")
        found[ours] = type(usual)(value)
    return found


def class_names(config: dict[str, Any], name: str) -> tuple[str, ...]:
    """The names of a classifier's outputs; none where they are transformers' placeholders.

    Raises:
        UserError: they are not numbered.
    """
    try:
        names = {int(index): str(label) for index, label in config.get("id2label", {}).items()}
    except (AttributeError, ValueError):
        raise UserError(f"The id2label in the config.json of {name!r} does not name classes by number.") from None
    ordered = tuple(names[index] for index in sorted(names))
    return () if ordered == tuple(f"LABEL_{index}" for index in range(len(ordered))) else ordered
