"""Networks that are known and not read, by their keys: the true reason of a refusal."""

from __future__ import annotations

import re

from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError

# Pattern of a key -> (what the network has, what to do).
_MARKS: tuple[tuple[str, str, str], ...] = (
    (
        r"(^|\.)(rope|rope_embed|rope_embeddings|rotary_emb)\.|(^|\.)storage_tokens$|\.attn\.qkv\.bias_mask$",
        "rotary positions, and does not tell which (EVA-02, RoPE-ViT)",
        "Give the directory that `timm.models.save_for_hf` writes: its config.json tells.",
    ),
    (
        r"relative_position_bias|relative_position_index|position_bias",
        "relative position biases (BEiT, data2vec, Swin), which a ViT has no place for",
        "Those with absolute positions alone are read.",
    ),
    (
        r"(^|\.)blocks\.\d+\.(gamma_[12]|attn\.[qv]_bias)$",
        "blocks of EVA's kind, whose positions may be rotary: a file does not tell",
        "Give the directory that `timm.models.save_for_hf` writes: its config.json tells.",
    ),
    (
        r"(^|\.)layer[1-4]\.\d+\.conv\d\.weight$|(^|\.)stages\.\d+\.",
        "the keys of a convolutional or hierarchical network",
        "Plain Vision Transformers are read.",
    ),
)


def refuse_known(weights: Weights, name: str) -> None:
    """Refuse a network that is known and not read.

    Args:
        weights: of a file, with its own names.
        name: the file, for messages.

    Raises:
        UserError: its keys are those of such a network.
    """
    for pattern, has, remedy in _MARKS:
        key = next((key for key in weights if re.search(pattern, key)), None)
        if key is not None:
            raise UserError(f"{name!r} has {has}: {key}.", remedy)
