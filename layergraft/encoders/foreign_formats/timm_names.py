"""MAE, iBOT's released backbone, and whatever has timm's names: DINO's and DeiT's files, timm's own, Prithvi's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

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
    tensors,
    without,
)
from layergraft.encoders.foreign_formats.refusals import refuse_known
from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError
from layergraft.runs.readable import counted

_AVERAGES = ("model_ema", "state_dict_ema")
_PATCHES = "patch_embed.proj.weight"
_PRITHVI_EPS = 1e-5
_COORDINATES = ("temporal_embed_enc.", "location_embed_enc.")
_PERCEPTION = {"norm_pre.weight", "attn_pool.latent"}
_UNTOLD = (
    "A file does not tell either: a feature that is the mean of the patches (?pool=mean), positions by the scale of an "
    "image (ScaleMAE, which is not read), rotary ones beside the learned (give timm's config.json too)."
)
# A linear evaluation that fits many heads at once keeps them in one module: `heads.0.weight`, `linear.lr_1.bias` …
_SWEEP = re.compile(r"^(heads?|linears?\w*|classifiers?\w*|probes?\w*|fcs?)\.\S+\.(weight|bias|running_\w+|num_\w+)$")


def read_timm_names(content: Content, name: str) -> Foreign | None:
    """Read weights with timm's names; None where there is no patch embedding of such a name."""
    left, beside = inner(content)
    if _PATCHES not in left and "patch_embed.proj.0.weight" not in left:
        return None
    if not any(key.startswith("blocks.") for key in left) and any(".blocks.0." in key for key in left):
        return None  # a copy of the patch embedding beside the network, which lies below a prefix
    refuse_known(left, name)
    if left.keys() >= _PERCEPTION:
        raise UserError(
            f"{name!r} has the keys of a Perception Encoder, whose rotary positions lie in none of them.",
            "Give the directory that `timm.models.save_for_hf` writes: its config.json tells.",
        )
    ibot = take(left, "masked_embed")
    encoders = {"model": take_encoder(left)}
    decoder = take(left, "decoder_") | ({"mask_token": left.pop("mask_token")} if "mask_token" in left else {})
    heads = {f"decoder.{'positions' if key == 'pos_embed' else key}": value for key, value in decoder.items()}
    classifiers = {"model": take_classifier(left, "head.")}
    format_name = (
        "MAE with decoder" if decoder else "iBOT backbone" if ibot else "ViT with timm's names (timm, MAE, DINO, …)"
    )
    for key in _AVERAGES:
        if isinstance(content.get(key), Mapping):
            averaged = tensors(content[key])
            encoders["ema"] = take_encoder(averaged)
            classifiers["ema"] = take_classifier(averaged, "head.")
            left |= averaged
    arguments: dict[str, Any] = {} if decoder or ibot else {"norm_eps": _usual_eps(encoders["model"])}
    plain = "cls_token" in encoders["model"] and "fc_norm.weight" not in encoders["model"] and not (decoder or ibot)
    notes: tuple[str, ...] = (_UNTOLD,) if plain else ()
    unused = summary(ibot, "mask token") + summary(take(left, "attn_pool."), "attention pooling") + _take_sweep(left)
    if getattr(encoders["model"].get(_PATCHES), "ndim", 0) == 5:
        format_name = "Prithvi"
        unused += summary(take(left, *_COORDINATES), "embeddings of time and place")
        encoders["model"], notes = _one_frame(encoders["model"], name)
        arguments = {"norm_eps": _PRITHVI_EPS}
    explained(left, name, format_name)
    return Foreign(
        format=format_name,
        encoders=encoders,
        heads=heads,
        classifiers=classifiers,
        unused=unused + others(without(beside, *_AVERAGES), name, format_name),
        arguments=arguments,
        notes=notes,
    )


def _usual_eps(encoder: Weights) -> float:
    """A norm in front of the blocks is the mark of CLIP, whose eps is another."""
    return 1e-5 if "norm_pre.weight" in encoder else 1e-6


def _take_sweep(left: Weights) -> tuple[str, ...]:
    """Move the linear heads of a sweep out of `left`.

    They are alike; one head alone is a classifier, and layers of other shapes are one behind the other.
    """
    swept = {key: value for key, value in left.items() if _SWEEP.match(key) and value.ndim <= 2}
    shapes = [value.shape for value in swept.values() if value.ndim == 2]
    count = len(shapes)
    if count < 2 or len(set(shapes)) > 1:
        return ()
    for key in swept:
        del left[key]
    return (f"{count} linear heads of a sweep",)


def _one_frame(encoder: Weights, name: str) -> tuple[Weights, tuple[str, ...]]:
    """Make the encoder of videos that of their single frames, which is exact where a patch is one frame deep.

    Prithvi's positions are a fixed table of 3-D sines and cosines whose last quarter of channels (a multiple of 4) is
    the frame's: those of the first frame are what it takes for one frame alone.

    Raises:
        UserError: a patch is deeper than a frame, or the positions are others.
    """
    weight, positions = encoder[_PATCHES], encoder.get("pos_embed")
    shape = tuple(weight.shape)
    if shape[2] != 1:
        raise UserError(
            f"{name!r} has a patch projection of shape {shape}: volumes or videos of {shape[2]} slices a patch.",
            "Only still images are known.",
        )
    if positions is None or positions.ndim != 3 or positions.shape[0] != 1 or min(positions.shape[1:]) < 2:
        return encoder, ()  # refused where the architecture is found
    frame_channels = max(positions.shape[2] // 16 * 4, 1)
    patches = positions[0, 1:]
    of_first = (patches[:, -frame_channels:] - patches[:1, -frame_channels:]).abs().amax(dim=1) < 1e-5
    first = torch.tensor([0.0] * (frame_channels // 2) + [1.0] * (frame_channels - frame_channels // 2))
    count = int(of_first.sum())
    is_table = (patches[0, -frame_channels:].float() - first).abs().max() < 1e-5 and bool(of_first[:count].all())
    if not is_table or patches.shape[0] % count:
        raise UserError(
            f"{name!r} has a patch projection of shape {shape}, and positions that are not Prithvi's table: how many "
            "frames they are for is not known.",
            "Only still images are known.",
        )
    squeezed = encoder | {_PATCHES: weight[:, :, 0], "pos_embed": positions[:, : 1 + count]}
    frames = patches.shape[0] // count
    note = f"It is for {counted(frames, 'frame')}, and is read as the encoder of one frame, an image"
    return squeezed, (f"{note}, without time and place.",)
