"""Hugging Face's names of a ViT (`ViTModel`, `ViTMAEForPreTraining`, `ViTForImageClassification`) and timm's.

On disk transformers writes the names of its first ViT (`encoder.layer.0.attention.attention.query`), in memory its
modules have shorter ones (`layers.0.attention.q_proj`); both are read.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError

PATCHES = "embeddings.patch_embeddings.projection.weight"
MODEL_TYPES = ("vit", "vit_mae", "beit", "data2vec-vision")
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
    (r"\.lambda_([12])$", r".ls\1.gamma"),
)


def _rename(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _join_qkv(weights: Weights) -> Weights:
    """Query, key and value, three tensors, become timm's one; what is no such triple stays and is unknown to timm.

    BEiT and data2vec have no bias of the key: it adds the same to all scores of a query, so zeros are equal to none.
    """
    joined = dict(weights)
    for name, query in weights.items():
        if ".attention.q_proj." not in name:
            continue
        key, value = (name.replace("q_proj", part) for part in ("k_proj", "v_proj"))
        if name.endswith(".bias") and value in weights:
            joined.setdefault(key, torch.zeros_like(query))
        if {key, value} <= joined.keys() and query.shape == joined[key].shape == joined[value].shape != ():
            parts = [joined.pop(part) for part in (name, key, value)]
            joined[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return joined


def lacks_key_bias(weights: Weights) -> bool:
    """Return whether queries have a bias and keys have none, as in BEiT and data2vec."""
    parts = {match[1][0] for name in weights if (match := re.search(r"\.(query|key|[qk]_proj)\.bias$", name))}
    return parts == {"q"}


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
    renamed: Weights = {}
    for name, value in weights.items():
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = rows.contiguous()
        else:
            renamed[name] = value
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
    return {_rename(name, rules): value for name, value in renamed.items()}


def known_arguments(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Read what a `config.json` of transformers tells that weights do not.

    Args:
        config: its content.
        name: the directory, for messages.

    Returns:
        `num_heads`, `norm_eps`, and `grid`: rows and columns of patches.

    Raises:
        UserError: it is another network, uses another activation, or has numbers that are none.
    """
    if config.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{name!r} is a {config.get('model_type')!r} of transformers, not a ViT.",
            f"{', '.join(f'`{kind}`' for kind in MODEL_TYPES)} are read.",
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{name!r} uses the activation {config['hidden_act']!r}; only `gelu` is known.")
    arguments: dict[str, Any] = {}
    for ours, theirs, usual in (
        ("num_heads", "num_attention_heads", 12),
        ("norm_eps", "layer_norm_eps", LAYER_NORM_EPS),
    ):
        value = config.get(theirs, usual)
        if not isinstance(value, type(usual) | int) or not 0 < value < math.inf:
            raise UserError(f"The config.json of {name!r} has {theirs} {value!r}, no positive number.")
        arguments[ours] = type(usual)(value)
    height, width = _two_sizes(config, "image_size", 224, name)
    patch_height, patch_width = _two_sizes(config, "patch_size", 16, name)
    return arguments | {"grid": (height // patch_height, width // patch_width)}


def _two_sizes(config: dict[str, Any], key: str, usual: int, name: str) -> tuple[int, int]:
    """Height and width in pixels, which transformers also writes as one number."""
    value = config.get(key, usual)
    sizes = value if isinstance(value, list) else [value, value]
    if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"The config.json of {name!r} has {key} {value!r}, no positive number or two.")
    return sizes[0], sizes[1]


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
