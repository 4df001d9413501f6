"""MONAI's `ViT` and `MaskedAutoEncoderViT` for images of two dimensions."""

from __future__ import annotations

import re

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    Rule,
    explained,
    inner,
    others,
    renamed,
    summary,
    take,
    take_classifier,
    take_encoder,
)
from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError

_PATCHES = "patch_embedding.patch_embeddings.weight"
_TIMM: tuple[Rule, ...] = (
    (r"^patch_embedding\.patch_embeddings\.", "patch_embed.proj."),
    (r"^patch_embedding\.position_embeddings$", "pos_embed"),
    (r"^blocks\.\d+\.(weight|bias)$", r"norm.\1"),  # the MAE's last norm is the last of its `blocks`
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.linear([12])\.", r".mlp.fc\1."),
)
_IDLE = re.compile(r"^blocks\.\d+\.(norm_cross_attn|cross_attn)\.")  # every block has them, no ViT calls them
_DECODER = ("decoder_", "mask_tokens")
_EPS = 1e-5  # of torch's LayerNorm


def read_monai(content: Content, name: str) -> Foreign | None:
    """Read a ViT of MONAI; None where there is no patch embedding of its name.

    Raises:
        UserError: it is for volumes, or projects flattened patches, whose shape the file does not tell.
    """
    left, beside = inner(content)
    if "patch_embedding.patch_embeddings.1.weight" in left:
        raise UserError(
            f'{name!r} is a ViT of MONAI with `proj_type="perceptron"`: its flattened patches do not tell their shape.',
            'Those with `proj_type="conv"` are read.',
        )
    if _PATCHES not in left:
        return None
    shape = tuple(left[_PATCHES].shape)
    if len(shape) != 4:
        raise UserError(
            f"{name!r} is a ViT of MONAI for volumes: its patch projection has the shape {shape}.",
            "Those with `spatial_dims=2` are read.",
        )
    idle: Weights = {key: left.pop(key) for key in list(left) if _IDLE.match(key)}
    decoder = {key: left.pop(key) for key in list(left) if key.startswith(_DECODER)}
    unused = summary(idle, "cross-attention that no block calls") + summary(decoder, "decoder of MONAI")
    unused += summary(take(left, "classification_head.0."), "classifier with a tanh")
    classifier = take_classifier(left, "classification_head.")
    left = renamed(left, _TIMM)
    encoder = take_encoder(left)
    explained(left, name, "a ViT of MONAI")
    return Foreign(
        format=f"MONAI {'MaskedAutoEncoderViT' if decoder else 'ViT'}",
        encoders={"encoder": encoder},
        classifiers={"encoder": classifier},
        unused=unused + others(beside, name, "a ViT of MONAI"),
        arguments={"norm_eps": _EPS, "no_embed_class": True},
    )
