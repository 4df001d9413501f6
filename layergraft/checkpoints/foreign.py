"""Checkpoints of other projects: find the format by its keys, give the weights timm's names."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from layergraft.errors import UserError

Weights = dict[str, Tensor]
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What a file holds.

    Args:
        format: whose it is.
        encoder: weights with timm's names.
        momentum: likewise of the momentum encoder, where there is one.
        heads: projector, predictor, decoder, with our names.
    """

    format: str
    encoder: Weights
    momentum: Weights = field(default_factory=dict)
    heads: Weights = field(default_factory=dict)


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; never runs code from it.

    Raises:
        UserError: damaged, or a pickle that wants to run code.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "It may be truncated: compare its size with the original."
        if "weights_only" in str(error) or "Unsupported" in str(error):
            hint = "It holds more than tensors. Load it where you trust it and save its state_dict alone."
        raise UserError(f"{str(path)!r} is no checkpoint that can be read: {reason}", hint) from None
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} holds a {type(content).__name__}, not named weights.")
    return content


def _below(weights: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _decoder_name(name: str) -> str:
    """MAE's name of a decoder parameter -> that of `MaeDecoder`."""
    return name.removeprefix("decoder_").replace("pos_embed", "positions", 1)


def detect(content: dict[str, Any], name: str) -> Foreign:
    """Tell the format from the keys.

    Args:
        content: what the file holds.
        name: the file, for messages.

    Raises:
        UserError: no known format.
    """
    weights: Any = content
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            weights = content[key]
    weights = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    if any(key.startswith("module.base_encoder.") for key in weights):
        online, slow = (_below(weights, f"module.{side}_encoder.") for side in ("base", "momentum"))
        heads = {f"projector.{k.removeprefix('head.')}": v for k, v in online.items() if k.startswith("head.")}
        heads |= {f"predictor.{k}": v for k, v in _below(weights, "module.predictor.").items()}
        heads |= {f"momentum.projector.{k.removeprefix('head.')}": v for k, v in slow.items() if k.startswith("head.")}
        return Foreign(
            format="MoCo v3",
            encoder={k: v for k, v in online.items() if not k.startswith("head.")},
            momentum={k: v for k, v in slow.items() if not k.startswith("head.")},
            heads=heads,
        )
    if "patch_embed.proj.weight" in weights and any(key.startswith("blocks.0.") for key in weights):
        decoder = {k: v for k, v in weights.items() if k.startswith("decoder_") or k == "mask_token"}
        rest = {k: v for k, v in weights.items() if k not in decoder}
        heads = {f"decoder.{_decoder_name(k)}": v for k, v in decoder.items()}
        return Foreign(format="MAE" if decoder or "model" in content else "timm", encoder=rest, heads=heads)
    raise UserError(
        f"{name!r} is in no format that is known here.",
        "Known: MAE, MoCo v3 and layer-grafted files, timm weights. Its first keys: "
        + ", ".join(list(map(str, weights or content))[:5])
        + ".",
    )


def shape_arguments(weights: Weights, name: str, options: dict[str, str]) -> dict[str, Any]:
    """What the weights tell of the architecture, as timm's arguments.

    Args:
        weights: with timm's names.
        name: the file, for messages.
        options: what the file cannot tell, `num_heads`, and `img_size` of images that are not square.
    """
    embed_dim, in_chans, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    class_token = "cls_token" in weights
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    patches = weights["pos_embed"].shape[1] - int(class_token)
    side = round(patches**0.5)
    if side * side != patches:
        raise UserError(f"{name!r} has {patches} positions, which form no square.", "Only square images are known.")
    if "num_heads" not in options and embed_dim not in HEADS_BY_WIDTH:
        raise UserError(f"{name!r} does not say how many heads it has.", f"Append it: {name}?num_heads=…")
    heads = int(options.get("num_heads", HEADS_BY_WIDTH.get(embed_dim, 0)))
    arguments: dict[str, Any] = {
        "img_size": side * patch,
        "in_chans": in_chans,
        "patch_size": patch,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        "class_token": class_token,
    }
    if registers:
        arguments["reg_tokens"] = registers
    return arguments
