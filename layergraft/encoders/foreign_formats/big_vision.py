"""big_vision's `.npz` files, and those of the first ViT, as timm reads them: Flax's names and layouts."""

from __future__ import annotations

import re

from torch import Tensor

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    Rule,
    explained,
    joined,
    renamed,
    summary,
    take,
    take_encoder,
    tensors,
)
from layergraft.encoders.safe_load import Weights

_PREFIXES = ("params/img/", "params/", "opt/target/", "")
_TIMM: tuple[Rule, ...] = (
    (r"^cls$", "cls_token"),
    (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj."),
    (r"^Transformer/encoder_norm/", "norm."),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1."),
    (r"\.LayerNorm_[12]/", ".norm2."),  # 1 in big_vision, 2 in the first ViT
    (r"\.MlpBlock_\d/Dense_0/", ".mlp.fc1."),
    (r"\.MlpBlock_\d/Dense_1/", ".mlp.fc2."),
    (r"\.MultiHeadDotProductAttention_\d/out/", ".attn.proj."),
    (r"\.MultiHeadDotProductAttention_\d/", ".attn."),
    (r"(kernel|scale)$", "weight"),
)
_QKV = (".attn.query/", ".attn.key/", ".attn.value/")
_NOTE = (
    "Flax's GELU is the tanh approximation; timm reads such files with the exact one, and so they are read here: "
    "else ?act=gelu_tanh."
)


def read_big_vision(content: Content, name: str) -> Foreign | None:
    """Read a ViT whose tensors have Flax's names and layouts; None where there are none.

    Raises:
        UserError: a tensor is unknown.
    """
    left = tensors(content)
    prefix = next((p for p in _PREFIXES if f"{p}embedding/kernel" in left), None)
    if prefix is None:
        return None
    model = take(left, prefix)
    unused = summary(take(model, "MAPHead_0/"), "attention pooling")
    unused += summary(left, "what lies beside the image tower")
    hidden = take(model, "pre_logits/")
    unused += summary(hidden, "layer in front of the classifier")
    model = _unrolled(model)
    queries = [value for key, value in model.items() if key.endswith("/query/kernel") and value.ndim == 3]
    flat = {key: _torchs_layout(key, value) for key, value in model.items()}
    classifier = {"weight" if key == "kernel" else key: value for key, value in take(flat, "head/").items()}
    if hidden:  # then it does not take the feature
        unused += summary(classifier, "classifier of another input than the feature")
        classifier = {}
    rest = joined(renamed(flat, _TIMM), _QKV, ".attn.qkv.")
    encoder = take_encoder(rest)
    if encoder.get("pos_embed") is not None and encoder["pos_embed"].ndim == 2:
        encoder["pos_embed"] = encoder["pos_embed"][None]
    explained(rest, name, "a ViT of big_vision")
    return Foreign(
        format="big_vision",
        encoders={"model": encoder},
        classifiers={"model": classifier},
        unused=unused,
        arguments={"norm_eps": 1e-6} | ({"num_heads": queries[0].shape[1]} if queries else {}),
        notes=(_NOTE,),
    )


def _unrolled(model: Weights) -> Weights:
    """Blocks that a scan keeps in one tensor, a block a row, each with its own name."""
    result: Weights = {}
    for key, value in model.items():
        if key.startswith("Transformer/encoderblock/") and value.ndim:
            tail = key.removeprefix("Transformer/encoderblock/")
            result |= {f"Transformer/encoderblock_{index}/{tail}": row for index, row in enumerate(value)}
        else:
            result[key] = value
    return result


def _torchs_layout(key: str, value: Tensor) -> Tensor:
    """Flax multiplies inputs from the left, and keeps the heads of attention as an axis of their own."""
    if re.search(r"/(query|key|value)/", key):
        value = value.flatten(1) if key.endswith("kernel") and value.ndim > 1 else value.flatten()
    elif key.endswith("/out/kernel"):
        value = value.flatten(0, -2) if value.ndim > 1 else value
    if not key.endswith("kernel"):
        return value
    if value.ndim == 4:  # (rows, columns, C, D)
        return value.permute(3, 2, 0, 1).contiguous()
    return value.T.contiguous() if value.ndim == 2 else value
