"""Hugging Face's names of its ViTs (`ViTModel`, `ViTMAEForPreTraining`, `Dinov2Model`, …) and timm's.

On disk transformers writes the names of its first ViT (`encoder.layer.0.attention.attention.query`), in memory its
modules have shorter ones (`layers.0.attention.q_proj`); both are read.
"""

from __future__ import annotations

import re

import torch

from layergraft.encoders.foreign_formats.foreign import Rule, joined, renamed
from layergraft.encoders.safe_load import Weights

PATCHES = "embeddings.patch_embeddings.projection.weight"
LAYER_NORM_EPS = 1e-12  # of transformers' configurations, where none says otherwise
_ON_DISK: tuple[Rule, ...] = (  # name on disk -> name in memory; more than one may apply
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda match: f".attention.{match[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_TIMM: tuple[Rule, ...] = (  # name in memory -> timm's
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^layers\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.lambda_([12])$", r".ls\1.gamma"),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)


_QKV = (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj.")
_GATED = (".mlp.gate_proj.", ".mlp.up_proj.")  # of DINOv2 in memory; on disk they are one


def _join_qkv(weights: Weights) -> Weights:
    """Query, key and value, three tensors, become timm's one; what is no such triple stays and is unknown to timm.

    BEiT and data2vec have no bias of the key: it adds the same to all scores of a query, so zeros are equal to none.
    """
    complete = dict(weights)
    for name, query in weights.items():
        if name.endswith(".attention.q_proj.bias") and name.replace("q_proj", "v_proj") in weights:
            complete.setdefault(name.replace("q_proj", "k_proj"), torch.zeros_like(query))
    return joined(complete, _QKV, ".attn.qkv.")


def lacks_key_bias(weights: Weights) -> bool:
    """Return whether queries have a bias and keys have none, as in BEiT and data2vec."""
    parts = {match[1][0] for name in weights if (match := re.search(r"\.(query|key|[qk]_proj)\.bias$", name))}
    return parts == {"q"}


def to_timm(weights: Weights) -> Weights:
    """Weights of a Hugging Face ViT without prefix, with timm's names; unknown names stay as they are."""
    in_memory = _join_qkv(renamed(weights, _ON_DISK))
    return renamed(joined(in_memory, _GATED, ".mlp.fc1."), _TIMM)


def decoder_to_ours(weights: Weights) -> Weights:
    """Weights of `ViTMAEForPreTraining.decoder` with the names of `MaeDecoder`."""
    plain = {re.sub(r"^decoder_(encoder\.layer|layers)\.", "layers.", name): value for name, value in weights.items()}
    bare = {re.sub(r"^decoder_", "", name): value for name, value in to_timm(plain).items()}
    return {("positions" if name == "pos_embed" else name): value for name, value in bare.items()}


def from_timm(weights: Weights) -> Weights:
    """timm's names -> Hugging Face's on disk, which all versions of transformers read."""
    split: Weights = {}
    for name, value in weights.items():
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                split[name.replace("attn.qkv", f"attention.attention.{part}")] = rows.contiguous()
        else:
            split[name] = value
    rules: tuple[Rule, ...] = (
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
    return renamed(split, rules)
