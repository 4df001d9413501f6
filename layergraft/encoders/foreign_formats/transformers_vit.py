"""The ViTs of transformers: ViT, ViTMAE, ViTMSN, I-JEPA, BEiT, data2vec, DINOv2 with and without registers."""

from __future__ import annotations

from typing import Any

from layergraft.encoders.foreign_formats import transformers_names as names
from layergraft.encoders.foreign_formats.dinov2 import without_register_positions
from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    explained,
    inner,
    others,
    summary,
    take,
    take_classifier,
    take_encoder,
)
from layergraft.encoders.foreign_formats.refusals import refuse_known
from layergraft.encoders.safe_load import Weights

_WHOSE = "a ViT of Hugging Face"
_PREFIXES = ("vit.", "beit.", "data2vec_vision.", "dinov2.", "dinov2_with_registers.", "ijepa.", "")
# ViTMSNForImageClassification puts the prefix before its embeddings and not before its layers (transformers 5.24).
_LAYERS = ("encoder.layer.", "layers.")
_HEADS = (("lm_head.", "head of masked patches"), ("pooler.", "pooler"), ("embeddings.mask_token", "mask token"))


def read_transformers_vit(content: Content, name: str) -> Foreign | None:
    """Read a ViT, bare or with MAE's decoder or a classifier; None where there is no patch embedding of its name."""
    left, beside = inner(content)
    prefix = next((p for p in _PREFIXES if p + names.PATCHES in left), None)
    if prefix is None:
        return None
    decoder, classifier = take(left, "decoder."), take_classifier(left, "classifier.")
    rest = take(left, prefix)
    if prefix:
        rest |= {key: left.pop(key) for key in list(left) if key.startswith((*_LAYERS, "layernorm."))}
    refuse_known(rest, name)
    norm = {} if "layernorm.weight" in rest else take(rest, "pooler.layernorm.")  # BEiT's, of the mean of the patches
    unused: tuple[str, ...] = ()
    for start, said in _HEADS:
        unused += summary(take(left, start) | take(rest, start), said)
    registers = rest.pop("embeddings.register_tokens", None)
    kind = _kind(rest, decoder, norm, registers is not None)
    rest = names.to_timm(rest)
    encoder = take_encoder(rest) | {f"fc_norm.{key}": value for key, value in norm.items()}
    explained(left | rest, name, _WHOSE)
    arguments: dict[str, Any] = {"norm_eps": 1e-6 if "DINOv2" in kind else names.LAYER_NORM_EPS}
    if registers is not None:
        encoder, positions = without_register_positions(encoder, registers)
        arguments |= positions
    heads: Weights = {}
    if kind == "ViTMAE":
        heads = {f"decoder.{key}": value for key, value in names.decoder_to_ours(decoder).items()}
    else:
        unused += summary(decoder, "head of masked patches")
    if not _fits(classifier, encoder):  # DINOv2's takes the class token and the mean of the patches, side by side
        unused += summary(classifier, "classifier of another input than the feature")
        classifier = {}
    return Foreign(
        format=f"Hugging Face {kind}",
        encoders={"encoder": encoder},
        heads=heads,
        classifiers={"encoder": classifier},
        unused=unused + others(beside, name, _WHOSE),
        arguments=arguments,
    )


def _kind(rest: Weights, decoder: Weights, norm: Weights, registers: bool) -> str:
    if any(".layer_scale1." in key for key in rest):
        return "DINOv2 with registers" if registers else "DINOv2"
    if "decoder_embed.weight" in decoder or not decoder.keys() <= {"0.weight", "0.bias"}:
        return "ViTMAE"
    return "BEiT or data2vec" if norm or names.lacks_key_bias(rest) else "ViT"


def _fits(classifier: Weights, encoder: Weights) -> bool:
    """Whether a linear layer takes an encoder's feature."""
    weight, positions = classifier.get("weight"), encoder.get("pos_embed")
    return weight is None or positions is None or weight.shape[-1:] == positions.shape[-1:]
