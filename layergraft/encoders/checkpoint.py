"""The native form of an encoder, a directory that timm loads without us, and whatever else is an ENC."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn

from layergraft.encoders import huggingface
from layergraft.encoders.adapt import block_kind, fill, norm_eps, num_heads, resize, set_norm_eps
from layergraft.encoders.architecture import infer_architecture
from layergraft.encoders.foreign_formats import Foreign, detect
from layergraft.encoders.safe_load import read_directory, read_file, read_json
from layergraft.encoders.vit import Encoder, build_vit
from layergraft.errors import UserError, nearest
from layergraft.runs.atomic import write_bytes, write_text
from layergraft.runs.layout import encoder_directory, last_stage

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXAMPLES = {
    "encoder": "?encoder=momentum",
    "num_heads": "?num_heads=6",
    "img_size": "?img_size=224",
    "norm_eps": "?norm_eps=1e-6",
}  # of each option


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An ENC that was read.

    Args:
        encoder: in evaluation mode.
        format: whose form it is in.
        roles: the encoders that are there; the first is the default.
        heads: projector, predictor, decoder, with our names.
        classifier: weights of a linear or fine-tuned head (see `Classifier`).
        classes: the names of its outputs, where the checkpoint has them.
        notes: what was found, assumed, resized and left aside.
    """

    encoder: Encoder
    format: str
    roles: tuple[str, ...] = ()
    heads: dict[str, Tensor] = field(default_factory=dict)
    classifier: dict[str, Tensor] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation where nobody says: ImageNet's for colour, its average otherwise."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels


def check_expressible(encoder: Encoder) -> None:
    """Find out, before any training, whether an encoder directory can hold an encoder.

    Raises:
        UserError: timm, which loads such directories too, would build it with another eps.
    """
    with torch.device("meta"):
        plain = build_vit(encoder.architecture, encoder.model_args | {"depth": 1})
    usual = norm_eps(plain)
    if norm_eps(encoder) != usual:
        raise UserError(
            f"timm cannot express norms with eps {norm_eps(encoder):g}: its {encoder.architecture} has {usual:g}.",
            f"Append ?norm_eps={usual:g} to the encoder to use timm's value from here on.",
        )


def save_encoder(encoder: Encoder, path: Path, provenance: dict[str, Any]) -> None:
    """Write an encoder directory.

    Args:
        encoder: its weights are written as `model.safetensors`, with timm's names.
        path: the directory.
        provenance: where it comes from, written as `layergraft.json`.

    Raises:
        UserError: timm's arguments cannot express the encoder.
    """
    check_expressible(encoder)
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
    vit = encoder.vit
    pooling = {"global_pool": vit.global_pool, "fc_norm": not isinstance(vit.fc_norm, nn.Identity)}
    config = {
        "architecture": encoder.architecture.partition(".")[0],
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "model_args": encoder.model_args | pooling,
        "pretrained_cfg": pretrained,
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in vit.state_dict().items()}
    write_bytes(path / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_text(path / "layergraft.json", json.dumps(provenance, indent=2) + "\n")
    write_text(path / "config.json", json.dumps(config, indent=2) + "\n")


def load_encoder(encoder: str | Path) -> Encoder:
    """Load an ENC, and say on stderr what a foreign file was found to be.

    Args:
        encoder: a run, stage or encoder directory; a checkpoint of another project, file or directory; or `timm:NAME`.
            Options follow a `?`: `?encoder=momentum&num_heads=12&img_size=224`.

    Returns:
        The encoder in evaluation mode. Called on normalised images (N, C, H, W) it gives features (N, D); `encoder.vit`
        is the timm model.

    Raises:
        UserError: there is no such file, or its weights do not fit.
    """
    checkpoint = open_checkpoint(encoder)
    for note in checkpoint.notes:
        announce(note)
    return checkpoint.encoder


def load_heads(encoder: str | Path) -> dict[str, Tensor]:
    """The heads, momentum copies and queues that an ENC has, by their names in `heads.safetensors`."""
    path = Path(str(encoder).partition("?")[0]).expanduser()
    heads = last_stage(path) / "heads.safetensors"
    if heads.is_file():
        return read_file(heads)
    if path.is_file():
        return detect(read_file(path), str(path)).heads
    return detect(read_directory(path), str(path)).heads if "model_type" in _configuration(path) else {}


def announce(sentence: str) -> None:
    """Tell the user, once over all processes, what was found in a checkpoint or made of it."""
    if os.environ.get("RANK", "0") == "0":
        print(sentence, file=sys.stderr)


def open_checkpoint(encoder: str | Path) -> Checkpoint:
    """Read an ENC with all that it holds; see `load_encoder`."""
    place, _, query = str(encoder).partition("?")
    options = _options(query, place)
    notes: list[str] = []
    if place.startswith("timm:"):
        if "encoder" in options:
            raise UserError(f"{place!r} holds one encoder, no {options['encoder']!r}.", "Leave ?encoder= out.")
        found = _open_timm(place.removeprefix("timm:"))
    else:
        found = _open_path(Path(place).expanduser(), place, options)
    if "norm_eps" in options:
        set_norm_eps(found.encoder, float(options["norm_eps"]))
    if "num_heads" in options and int(options["num_heads"]) != num_heads(found.encoder):
        raise UserError(f"{place!r} has {num_heads(found.encoder)} heads and says so.", "Leave ?num_heads= out.")
    resized = resize(found.encoder, int(options.get("img_size", found.encoder.img_size)), place, notes.append)
    return replace(found, encoder=resized.eval(), notes=(*found.notes, *notes))


def _options(query: str, place: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key, value in options.items():
        if key not in EXAMPLES:
            raise UserError(f"An encoder has no option {key!r} ({place}?{query}).", nearest(key, EXAMPLES))
        if key == "encoder":
            continue
        try:
            usable = 0 < (float(value) if key == "norm_eps" else int(value)) < math.inf
        except ValueError:
            usable = False
        if not usable:
            kind = "number" if key == "norm_eps" else "whole number"
            raise UserError(f"`?{key}={value}` is no positive {kind} ({place}).", f"For instance: {EXAMPLES[key]}.")
    return options


def _open_timm(name: str) -> Checkpoint:
    try:
        vit = build_vit(name, {"pretrained": True, "num_classes": None})  # as many as its weights have
    except OSError as error:  # what the hub's errors have in common
        raise UserError(
            f"The weights of timm:{name} could not be fetched: {str(error).splitlines()[0]}",
            "They come from the Hugging Face hub, or from its cache on this machine (HF_HOME).",
        ) from None
    classifier = dict(vit.head.state_dict())
    vit.reset_classifier(0)
    with torch.device("meta"):
        pools = timm.create_model(name).attn_pool is not None
    pretrained: Any = vit.pretrained_cfg
    return Checkpoint(
        encoder=Encoder(vit, name, {}, tuple(pretrained["mean"]), tuple(pretrained["std"])),
        format="timm",
        classifier=classifier,
        classes=tuple(pretrained.get("label_names") or ()),
        notes=(f"timm:{name}: its attention pooling is not part of the encoder.",) if pools else (),
    )


def _open_path(path: Path, place: str, options: dict[str, str]) -> Checkpoint:
    if path.name in ("model.safetensors", "pytorch_model.bin") and (path.parent / "config.json").is_file():
        path = path.parent  # the configuration beside it says what the file alone does not
    if path.is_dir():
        config = _configuration(path)
        if "model_type" in config:
            foreign = detect(read_directory(path), place)
            found = _build(foreign, place, options, huggingface.known_arguments(config, place), path)
            return replace(found, classes=huggingface.class_names(config, place))
        return _open_native(path, place, options)
    if not path.is_file():
        raise UserError(f"There is no encoder {place!r}.", "Give a run, a checkpoint file, or timm:NAME.")
    return _build(detect(read_file(path), place), place, options, {}, path.parent)


def _configuration(path: Path) -> dict[str, Any]:
    """The configuration in a directory; `model_type` is in those of transformers alone."""
    return read_json(path / "config.json") if (path / "config.json").is_file() else {}


def _open_native(path: Path, place: str, options: dict[str, str]) -> Checkpoint:
    """A run, stage or encoder directory of ours, or a directory that timm saved."""
    stage = last_stage(path)
    roles = [role for role in ("momentum", "ema") if (stage / f"encoder_{role}" / "model.safetensors").is_file()]
    role = options.get("encoder", "online")
    if role not in ("online", *roles):
        raise UserError(f"{place!r} holds no encoder {role!r}.", f"It holds: {', '.join(['online', *roles])}.")
    directory = encoder_directory(path if role == "online" else stage / f"encoder_{role}")
    if directory is None:
        raise UserError(
            f"The directory {place!r} holds no encoder.", "Give a run, one of its stages, or an encoder directory."
        )
    config = read_json(directory / "config.json")
    try:
        name, pretrained = config["architecture"], config["pretrained_cfg"]
        mean, std = tuple(pretrained["mean"]), tuple(pretrained["std"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{str(directory)!r} is no encoder directory: its config.json lacks {error}.") from None
    given = config.get("model_args", {})
    if not isinstance(given, dict):
        raise UserError(f"{str(directory)!r} is no encoder directory: its config.json has model_args {given!r}.")
    arguments = _square({key: value for key, value in given.items() if key != "num_classes"})
    try:
        vit = build_vit(name, arguments)
    except UserError as error:
        raise UserError(f"The config.json of {str(directory)!r} fits no encoder: {error.problem}", error.hint) from None
    encoder = Encoder(vit, name, arguments, mean, std)
    weights = read_directory(directory)
    classifier = {key.removeprefix("head."): weights.pop(key) for key in list(weights) if key.startswith("head.")}
    fill(encoder, weights, str(directory))
    return Checkpoint(
        encoder=encoder,
        format="encoder directory",
        roles=("online", *roles),
        classifier=classifier,
        classes=tuple(config.get("label_names") or ()),
    )


def _square(arguments: dict[str, Any]) -> dict[str, Any]:
    """timm writes the size of an image as two numbers."""
    size = arguments.get("img_size")
    if isinstance(size, list):
        if size[0] != size[1]:
            raise UserError(f"An encoder for images of {size[0]}×{size[1]} pixels is not known here, square ones are.")
        arguments["img_size"] = size[0]
    return arguments


def _build(foreign: Foreign, place: str, options: dict[str, str], known: dict[str, Any], folder: Path) -> Checkpoint:
    """The encoder of a foreign checkpoint, and what there is to say about it."""
    roles = tuple(foreign.encoders)
    role = options.get("encoder", roles[0])
    if role not in roles:
        raise UserError(f"{place!r} ({foreign.format}) holds no encoder {role!r}.", f"It holds: {', '.join(roles)}.")
    weights = foreign.encoders[role]
    given = {"num_heads": int(options["num_heads"])} if "num_heads" in options else {}
    name, arguments, assumed = infer_architecture(weights, place, given | known)
    mean, std = default_statistics(arguments["in_chans"])
    preprocessing = folder / "preprocessor_config.json"
    if known and preprocessing.is_file():
        content = read_json(preprocessing)
        try:
            mean = tuple(map(float, content.get("image_mean", mean)))
            std = tuple(map(float, content.get("image_std", std)))
        except (TypeError, ValueError):
            raise UserError(f"{str(preprocessing)!r}: image_mean and image_std are no lists of numbers.") from None
    encoder = Encoder(build_vit(name, arguments), name, arguments, mean, std)
    fill(encoder, weights, place)
    settings = foreign.arguments | known
    if "norm_eps" in settings:
        set_norm_eps(encoder, settings["norm_eps"])
        if "norm_eps" not in known and "norm_eps" not in options:
            assumed.append(f"LayerNorm's eps {settings['norm_eps']:g} is assumed; else append ?norm_eps=….")
        if not known:
            assumed.append(f"{block_kind(encoder)} is assumed, norms before attention and MLP: a file does not tell.")
    shape = (
        f"{encoder.depth} blocks, width {encoder.embed_dim}, {num_heads(encoder)} heads, patch {encoder.patch_size}, "
        f"{encoder.img_size} px, {encoder.in_chans} channels"
    )
    others = f" (also there: {', '.join(r for r in roles if r != role)})" if len(roles) > 1 else ""
    notes = [f"{place}: {foreign.format}, encoder `{role}`{others}: {shape}."]
    notes += [f"  {note}" for note in assumed]
    notes += [f"  {note}" for note in foreign.notes if "num_heads" not in options]
    if any(value.dtype not in (torch.float32, torch.int64) for value in weights.values()):
        notes.append("  Weights of half precision were widened to float32.")
    unused = [
        *(f"heads.{head}" for head in dict.fromkeys(key.partition(".")[0] for key in foreign.heads)),
        *foreign.unused,
    ]
    classifier = foreign.classifiers.get(role, {})
    unused += ["classifier"] if classifier else []
    if unused:
        notes.append(f"  Not part of the encoder: {', '.join(unused)}.")
    return Checkpoint(
        encoder=encoder,
        format=foreign.format,
        roles=roles,
        heads=foreign.heads,
        classifier=classifier,
        notes=tuple(notes),
    )
