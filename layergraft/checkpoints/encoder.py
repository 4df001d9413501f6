"""The native form of an encoder, a directory that timm loads without us, and whatever else is an ENC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from safetensors.torch import load, save

from layergraft.checkpoints.atomic import write_bytes, write_text
from layergraft.checkpoints.foreign import detect, read_file, shape_arguments
from layergraft.errors import UserError
from layergraft.models.vit import Encoder, build_vit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation where nobody says: ImageNet's for colour, its average otherwise."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels


def save_encoder(encoder: Encoder, path: Path, provenance: dict[str, Any]) -> None:
    """Write an encoder directory.

    Args:
        encoder: its weights are written as `model.safetensors`, with timm's names.
        path: the directory.
        provenance: where it comes from, written as `layergraft.json`.
    """
    size, channels = encoder.img_size, encoder.in_chans
    pretrained: dict[str, Any] = {
        "num_classes": 0,
        "input_size": [channels, size, size],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    config = {
        "architecture": encoder.architecture,
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "model_args": encoder.model_args,
        "pretrained_cfg": pretrained,
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.vit.state_dict().items()}
    write_bytes(path / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_text(path / "layergraft.json", json.dumps(provenance, indent=2) + "\n")
    write_text(path / "config.json", json.dumps(config, indent=2) + "\n")


def _load_directory(path: Path) -> Encoder:
    try:
        config = json.loads((path / "config.json").read_text())
        name, arguments, pretrained = config["architecture"], config.get("model_args", {}), config["pretrained_cfg"]
        weights = load((path / "model.safetensors").read_bytes())
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} is no encoder directory: {error}.", "It needs config.json and model.safetensors."
        ) from None
    encoder = Encoder(build_vit(name, arguments), name, arguments, tuple(pretrained["mean"]), tuple(pretrained["std"]))
    _fill(encoder, weights, str(path))
    return encoder


def _fill(encoder: Encoder, weights: dict[str, torch.Tensor], name: str) -> None:
    own = encoder.vit.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [
        f"{k} {tuple(weights[k].shape)} for {tuple(own[k].shape)}"
        for k in own.keys() & weights.keys()
        if own[k].shape != weights[k].shape
    ]
    extra = [key for key in extra if not key.startswith(("head.", "fc_norm."))]
    if missing or extra or wrong:
        lines = [
            f"{label}: {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}"
            for label, keys in (("missing", missing), ("unexpected", extra), ("other shape", wrong))
            if keys
        ]
        raise UserError(f"The weights in {name!r} do not fit the encoder.", "; ".join(lines))
    encoder.vit.load_state_dict({key: weights[key] for key in own})


def encoder_directory(path: Path) -> Path | None:
    """The encoder directory that a run or stage directory stands for."""
    for candidate in (path, path / "encoder"):
        if (candidate / "model.safetensors").is_file() and (candidate / "config.json").is_file():
            return candidate
    return None


def load_encoder(encoder: str | Path) -> Encoder:
    """Load an ENC.

    Args:
        encoder: a run, stage or encoder directory; a MAE, MoCo v3, layer-grafted or timm checkpoint file; or
            `timm:NAME`. Options follow a `?`: `?encoder=momentum&num_heads=12`.

    Returns:
        The encoder in evaluation mode. Called on normalised images (N, C, H, W) it gives features (N, D); `encoder.vit`
        is the timm model.

    Raises:
        UserError: there is no such file, or its weights do not fit.
    """
    place, _, query = str(encoder).partition("?")
    options = dict(parse_qsl(query))
    if place.startswith("timm:"):
        name = place.removeprefix("timm:")
        vit = build_vit(name, {"pretrained": True})
        pretrained: Any = vit.pretrained_cfg
        mean, std = pretrained["mean"], pretrained["std"]
        return Encoder(vit, name, {}, tuple(mean), tuple(std)).eval()
    path = Path(place).expanduser()
    if path.is_dir():
        if options.get("encoder") in ("momentum", "ema"):
            path = path / f"encoder_{options['encoder']}"
        directory = encoder_directory(path)
        if directory is None:
            raise UserError(
                f"The directory {place!r} holds no encoder.", "Give a run, one of its stages, or an encoder directory."
            )
        return _load_directory(directory).eval()
    if not path.is_file():
        raise UserError(f"There is no encoder {place!r}.", "Give a run, a checkpoint file, or timm:NAME.")
    foreign = detect(read_file(path), place)
    weights = foreign.momentum if options.get("encoder") == "momentum" else foreign.encoder
    if not weights:
        raise UserError(f"{place!r} ({foreign.format}) holds no momentum encoder.")
    arguments = shape_arguments(weights, place, options)
    mean, std = default_statistics(arguments["in_chans"])
    name = "vit_base_patch16_224"
    result = Encoder(build_vit(name, arguments), name, arguments, mean, std)
    _fill(result, weights, place)
    return result.eval()
