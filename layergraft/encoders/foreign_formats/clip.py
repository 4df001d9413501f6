"""The vision towers of CLIP and SigLIP, with the names of transformers, of OpenAI and of open_clip."""

from __future__ import annotations

from typing import Any

import torch

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

_TRANSFORMERS: tuple[Rule, ...] = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),  # so written there
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
_OPENAI: tuple[Rule, ...] = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.ls_([12])\.", r".ls\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_QKV = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
_TEXT = ("text_model.", "text_projection", "logit_scale", "logit_bias", "token_embedding.", "ln_final.", "text.")
_CLIP_EPS, _SIGLIP_EPS = 1e-5, 1e-6  # of transformers' and open_clip's configurations
_CLIPS_ACTIVATION = (
    "CLIP comes with quick GELU (OpenAI, ?act=quick_gelu) and GELU (most of open_clip, ?act=gelu): {} is assumed."
)


def read_transformers_clip(content: Content, name: str) -> Foreign | None:
    """Read `CLIPVisionModel`, `SiglipVisionModel` or the tower of the whole; None where there is no such embedding.

    transformers 5 writes the vision models without `vision_model.`, its versions 4 with it.
    """
    left, beside = inner(content)
    prefix = next((p for p in ("vision_model.", "") if f"{p}embeddings.patch_embedding.weight" in left), None)
    if prefix is None:
        return None
    unused = summary(take(left, *_TEXT), "text tower") + summary(take(left, "visual_projection."), "projection")
    unused += summary(take(left, "classifier."), "classifier of another input than the feature")
    tower = take(left, prefix)
    unused += summary(take(tower, "head."), "attention pooling")
    tower.pop("embeddings.position_ids", None)  # numbers from 0 on, in files of transformers 4.30 and before
    patches = tower["embeddings.patch_embedding.weight"]
    if patches.ndim != 4:
        raise UserError(
            f"{name!r} has a patch projection of shape {tuple(patches.shape)}: SigLIP 2 for images of any shape.",
            "Those for one image size (`SiglipVisionModel`) are read.",
        )
    encoder = renamed(joined(tower, _QKV, ".attn.qkv."), _TRANSFORMERS)
    clip = "cls_token" in encoder
    return _tower(
        encoder,
        left,
        name,
        format_name=f"Hugging Face {'CLIP' if clip else 'SigLIP'}",
        unused=unused + others(beside, name, "CLIP of Hugging Face"),
        arguments={"act_layer": "quick_gelu", "norm_eps": _CLIP_EPS}
        if clip
        else {"act_layer": "gelu_tanh", "norm_eps": _SIGLIP_EPS},
        note=_CLIPS_ACTIVATION.format("quick GELU")
        if clip
        else "GELU's tanh approximation is assumed; else ?act=gelu.",
    )


def read_openai_clip(content: Content, name: str) -> Foreign | None:
    """Read CLIP with the names of OpenAI and open_clip, the tower or the whole; None where there is none."""
    left, beside = inner(content)
    prefix = next((p for p in ("visual.", "") if {f"{p}conv1.weight", f"{p}class_embedding"} <= left.keys()), None)
    if prefix is None:
        return None
    tower = take(left, prefix)
    unused = summary(take(tower, "proj"), "projection")
    unused += summary(take(left, *_TEXT, "transformer.", "positional_embedding"), "text tower")
    return _tower(
        renamed(tower, _OPENAI),
        left,
        name,
        format_name="CLIP (OpenAI, open_clip)",
        unused=unused + others(beside, name, "CLIP"),
        arguments={"norm_eps": _CLIP_EPS},
        note=_CLIPS_ACTIVATION.format("GELU"),
    )


def _tower(
    renamed_tower: Weights,
    left: Weights,
    name: str,
    *,
    format_name: str,
    unused: tuple[str, ...],
    arguments: dict[str, Any],
    note: str,
) -> Foreign:
    """A tower with timm's names; tokens and positions get timm's dimensions."""
    encoder = take_encoder(renamed_tower)
    explained(left | renamed_tower, name, format_name)
    for key, dimensions in (("cls_token", 3), ("pos_embed", 3)):
        while key in encoder and 0 < encoder[key].ndim < dimensions:
            encoder[key] = encoder[key][None]
    patches = encoder.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim and not {"norm_pre.weight", "patch_embed.proj.bias"} & encoder.keys():
        encoder["patch_embed.proj.bias"] = torch.zeros(patches.shape[0])
    return Foreign(format=format_name, encoders={"vision": encoder}, unused=unused, arguments=arguments, notes=(note,))
