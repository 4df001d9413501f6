"""The native form of an encoder, a directory that timm loads without us, and whatever else is an ENC."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from layergraft.config.encoder import shown_size
from layergraft.config.paths import expanded
from layergraft.encoders.adapt import (
    block_kind,
    fill,
    norm_eps,
    num_heads,
    resize_encoder,
    set_norm_eps,
    use_mean_of_patches,
)
from layergraft.encoders.architecture import grid_of_size, infer_architecture
from layergraft.encoders.foreign_formats.detect import detect
from layergraft.encoders.foreign_formats.foreign import Foreign
from layergraft.encoders.foreign_formats.transformers_config import class_names, known_arguments
from layergraft.encoders.input_statistics import InputStatistics, choose_statistics, read_image_processor, read_timm
from layergraft.encoders.network import build_vit, is_eva, pooling_args
from layergraft.encoders.options import ACTIVATIONS, EncoderOptions, parse_options
from layergraft.encoders.provenance import trained_reading
from layergraft.encoders.safe_load import Weights, read_directory, read_file
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_bytes, write_text
from layergraft.runs.json_files import read_json
from layergraft.runs.layout import encoder_directory, last_stage
from layergraft.runs.readable import counted


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


def check_expressible(encoder: Encoder) -> None:
    """Find out, before any training, whether an encoder directory can hold an encoder.

    Raises:
        UserError: timm, which loads such directories too, would build it with another eps.
    """
    with torch.device("meta"):
        # One block is enough, but for a network that lists numbers of all its blocks (Sapiens2).
        depth = {} if is_eva(encoder.architecture) else {"depth": 1}
        plain = build_vit(encoder.architecture, encoder.model_args | depth)
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
        provenance: where it comes from, written as `layergraft.json`, with how the files of its images were read.

    Raises:
        UserError: timm's arguments cannot express the encoder.
    """
    check_expressible(encoder)
    pretrained: dict[str, Any] = {
        "num_classes": 0,
        "input_size": [encoder.in_chans, *encoder.input_size],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    vit = encoder.vit
    config = {
        "architecture": encoder.architecture.partition(".")[0],
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "model_args": encoder.model_args | pooling_args(encoder.architecture, vit),
        "pretrained_cfg": pretrained,
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in vit.state_dict().items()}
    write_bytes(path / "model.safetensors", save(weights, metadata={"format": "pt"}))
    read_by = {"input": words} if (words := encoder.reads.words()) else {}
    write_text(path / "layergraft.json", json.dumps(provenance | read_by, indent=2) + "\n")
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
    path = expanded(str(encoder).partition("?")[0])
    heads = last_stage(path) / "heads.safetensors"
    if heads.is_file():
        return read_file(heads)
    if path.is_file():
        return detect(read_file(path), str(path)).heads
    return detect(read_directory(path), str(path)).heads if "model_type" in _configuration(path) else {}


def open_checkpoint(encoder: str | Path) -> Checkpoint:
    """Read an ENC with all that it holds; see `load_encoder`."""
    address, _, query = str(encoder).partition("?")
    options = parse_options(query, address)
    if address.startswith("timm:"):
        opened = _open_timm(address, options)
    else:
        opened = _open_path(expanded(address), address, options)
    if options.norm_eps is not None:
        set_norm_eps(opened.encoder, options.norm_eps)
    heads, kind = num_heads(opened.encoder), block_kind(opened.encoder)
    if options.num_heads not in (None, heads):
        raise UserError(f"{address!r} has {heads} heads and says so.", "Leave ?num_heads= out.")
    if options.act is not None and ACTIVATIONS[options.act] not in kind.split():
        raise UserError(f"{address!r} has a {kind} and says so.", "Leave ?act= out.")
    notes: list[str] = []
    resized = resize_encoder(opened.encoder, options.img_size or opened.encoder.img_size, address, notes.append)
    if options.pool == "mean":
        use_mean_of_patches(resized)
    return replace(opened, encoder=resized.eval(), notes=(*opened.notes, *notes))


def _open_timm(address: str, options: EncoderOptions) -> Checkpoint:
    """A model of timm with the weights that the hub has."""
    if options.encoder is not None:
        raise UserError(f"{address!r} holds one encoder, no {options.encoder!r}.", "Leave ?encoder= out.")
    name = address.removeprefix("timm:")
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
    stated = InputStatistics(tuple(pretrained["mean"]), tuple(pretrained["std"]))
    statistics, notes = choose_statistics(stated, options, vit.patch_embed.proj.weight.shape[1], address)
    if pools:
        notes.append(f"timm:{name}: its attention pooling is not part of the encoder.")
    return Checkpoint(
        encoder=Encoder(vit, name, {}, *statistics),
        format="timm",
        classifier=classifier,
        classes=tuple(pretrained.get("label_names") or ()),
        notes=tuple(notes),
    )


def _open_path(path: Path, address: str, options: EncoderOptions) -> Checkpoint:
    if path.name in ("model.safetensors", "pytorch_model.bin") and (path.parent / "config.json").is_file():
        path = path.parent  # the configuration beside it says what the file alone does not
    if path.is_dir():
        config = _configuration(path)
        if "model_type" in config:
            foreign = detect(read_directory(path), address)
            known = known_arguments(config, address)
            processor = path / "preprocessor_config.json"
            opened = _build(foreign, address, options, known, processor if processor.is_file() else None)
            return replace(opened, classes=class_names(config, address))
        return _open_native(path, address, options)
    if not path.is_file():
        raise UserError(f"There is no encoder {address!r}.", "Give a run, a checkpoint file, or timm:NAME.")
    return _build(detect(read_file(path), address), address, options, {}, None)


def _configuration(path: Path) -> dict[str, Any]:
    """The configuration in a directory; `model_type` is in those of transformers alone."""
    return read_json(path / "config.json") if (path / "config.json").is_file() else {}


def _open_native(path: Path, address: str, options: EncoderOptions) -> Checkpoint:
    """A run, stage or encoder directory of ours, or a directory that timm saved."""
    stage = last_stage(path)
    roles = [role for role in ("momentum", "ema") if (stage / f"encoder_{role}" / "model.safetensors").is_file()]
    role = options.encoder or "online"
    if role not in ("online", *roles):
        raise UserError(f"{address!r} holds no encoder {role!r}.", f"It holds: {', '.join(['online', *roles])}.")
    directory = encoder_directory(path if role == "online" else stage / f"encoder_{role}")
    if directory is None:
        raise UserError(
            f"The directory {address!r} holds no encoder.", "Give a run, one of its stages, or an encoder directory."
        )
    config = read_json(directory / "config.json")
    try:
        name, pretrained = config["architecture"], config["pretrained_cfg"]
        stated = read_timm({key: pretrained[key] for key in ("mean", "std")}, directory / "config.json")
    except (KeyError, TypeError) as error:
        raise UserError(f"{str(directory)!r} is no encoder directory: its config.json lacks {error}.") from None
    if not isinstance(name, str):
        raise UserError(f"{str(directory)!r} is no encoder directory: its config.json has architecture {name!r}.")
    written = config.get("model_args", {})
    if not isinstance(written, dict):
        raise UserError(f"{str(directory)!r} is no encoder directory: its config.json has model_args {written!r}.")
    arguments = _one_side({key: value for key, value in written.items() if key != "num_classes"}, str(directory))
    weights = read_directory(directory)
    try:
        _check_size(name, arguments, weights)
        vit = build_vit(name, arguments)
    except UserError as error:
        raise UserError(f"The config.json of {str(directory)!r} fits no encoder: {error.problem}", error.hint) from None
    encoder = Encoder(vit, name, arguments, *stated)
    encoder.reads = trained_reading(str(directory))
    classifier = {key.removeprefix("head."): weights.pop(key) for key in list(weights) if key.startswith("head.")}
    pooling = [weights.pop(key) for key in list(weights) if key.startswith("attn_pool.")]
    fill(encoder, weights, str(directory))
    (encoder.mean, encoder.std), notes = choose_statistics(stated, options, encoder.in_chans, address)
    if pooling:
        notes.append(f"{address}: its attention pooling is not part of the encoder.")
    return Checkpoint(
        encoder=encoder,
        format="encoder directory",
        roles=("online", *roles),
        classifier=classifier,
        classes=tuple(config.get("label_names") or ()),
        notes=tuple(notes),
    )


def _check_size(name: str, arguments: dict[str, Any], weights: Weights) -> None:
    """Refuse a configuration of a much larger network than the weights are of, before it takes memory and hours.

    Raises:
        UserError: it is, or timm cannot build it.
    """
    blocks = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    depth = arguments.get("depth", blocks)
    if isinstance(depth, int) and depth > blocks:
        raise UserError(f"it has {counted(depth, 'block')}, and the weights {blocks}.")
    with torch.device("meta"):
        numbers = sum(value.numel() for value in build_vit(name, arguments).state_dict().values())
    if numbers > 2 * sum(value.numel() for value in weights.values()):
        raise UserError(f"it has {numbers:,} numbers, and the weights {sum(v.numel() for v in weights.values()):,}.")


def _one_side(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    """timm writes the size of an image as two numbers; one is the side of a square."""
    size = arguments.get("img_size")
    if isinstance(size, list):
        if len(size) != 2:
            raise UserError(f"The config.json of {name!r} has img_size {size}: height and width are two numbers.")
        arguments["img_size"] = size[0] if size[0] == size[1] else (size[0], size[1])
    return arguments


def _build(
    foreign: Foreign, address: str, options: EncoderOptions, known: dict[str, Any], processor: Path | None
) -> Checkpoint:
    """The encoder of a foreign checkpoint, and what there is to say about it.

    Args:
        foreign: what its file holds.
        address: the ENC, for messages.
        options: of the ENC.
        known: what a configuration of transformers tells; empty for a file without one.
        processor: the file of its image processor.
    """
    roles = tuple(foreign.encoders)
    role = options.encoder or roles[0]
    if role not in roles:
        raise UserError(f"{address!r} ({foreign.format}) holds no encoder {role!r}.", f"It holds: {', '.join(roles)}.")
    weights = foreign.encoders[role]
    grid = grid_of_size(weights, options.img_size)
    asked = {"num_heads": options.num_heads, "act_layer": options.act, "grid": grid}
    settings = foreign.arguments | {key: value for key, value in asked.items() if value is not None} | known
    name, arguments, assumed = infer_architecture(weights, address, settings)
    stated = None
    if processor is not None and None in (options.mean, options.std):
        stated, unusual = read_image_processor(processor)
        assumed += unusual
    statistics, chosen = choose_statistics(stated, options, arguments["in_chans"], address)
    encoder = Encoder(build_vit(name, arguments), name, arguments, *statistics)
    fill(encoder, weights, address)
    if "norm_eps" in settings:
        set_norm_eps(encoder, settings["norm_eps"])
        if "norm_eps" not in known and options.norm_eps is None:
            assumed.append(f"LayerNorm's eps {settings['norm_eps']:g} is assumed; else append ?norm_eps=….")
        if not known:
            assumed.append(f"{block_kind(encoder)} is assumed, norms before attention and MLP: a file does not tell.")
    classifier = foreign.classifiers.get(role, {})
    remarks = [*assumed, *chosen, *(note for note in foreign.notes if _is_open(note, options, known))]
    if any(value.dtype not in (torch.float32, torch.int64) for value in weights.values()):
        remarks.append("Weights of half precision were widened to float32.")
    unused = [f"heads.{head}" for head in dict.fromkeys(key.partition(".")[0] for key in foreign.heads)]
    unused += [*foreign.unused, *(["classifier"] if classifier else [])]
    if unused:
        remarks.append(f"Not part of the encoder: {', '.join(unused)}.")
    return Checkpoint(
        encoder=encoder,
        format=foreign.format,
        roles=roles,
        heads=foreign.heads,
        classifier=classifier,
        notes=(_headline(foreign, role, encoder, address), *(f"  {remark}" for remark in remarks)),
    )


def _is_open(note: str, options: EncoderOptions, known: dict[str, Any]) -> bool:
    """Whether a note does not ask for an option that is given, or that a configuration makes needless."""
    asked = set(re.findall(r"\?(\w+)=", note))
    answered = {key for key in asked if getattr(options, key, None) is not None}
    return not answered and not ("act" in asked and "act_layer" in known)


def _headline(foreign: Foreign, role: str, encoder: Encoder, address: str) -> str:
    """Format, role and shape of an encoder in one line."""
    roles = [other for other in foreign.encoders if other != role]
    others = f" (also there: {', '.join(roles)})" if roles else ""
    return (
        f"{address}: {foreign.format}, encoder `{role}`{others}: {counted(encoder.depth, 'block')}, width "
        f"{encoder.embed_dim}, {num_heads(encoder)} heads, patch {encoder.patch_size}, "
        f"{shown_size(encoder.img_size)} px, {counted(encoder.in_chans, 'channel')}."
    )
