"""Checkpoints of other projects: find the format by its keys, give the weights timm's names.

Every tensor of a file is the encoder's, a head's, or named as unused. One that nobody can explain is an error: a format
that is almost known would else be loaded almost right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from layergraft.encoders import huggingface
from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError

Content = Mapping[str, Any]
ENCODER = ("cls_token", "pos_embed", "reg_token", "patch_embed.", "norm_pre.", "blocks.", "norm.", "fc_norm.")
_HEAD_BEHIND_NORM = {"head.0.running_mean": "running_mean", "head.0.running_var": "running_var"}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What a file holds.

    Args:
        format: whose it is.
        encoders: role (`online`, `momentum`, `teacher`, …) -> weights with timm's names; the first is the default.
        heads: projector, predictor, decoder, with our names.
        classifiers: role -> linear or fine-tuned head: `weight`, `bias`, and `running_mean`, `running_var` of a
            BatchNorm without affine in front of it.
        unused: what else the file holds.
        arguments: what the format tells besides weights: `norm_eps`, where files of it may have another; `grid`,
            `no_embed_class` (see `infer_architecture`).
        notes: what the user should know about this format.
    """

    format: str
    encoders: dict[str, Weights]
    heads: Weights = field(default_factory=dict)
    classifiers: dict[str, Weights] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _tensors(content: Content) -> Weights:
    """The tensors of a dict, without the prefix that torch's data-parallel wrappers put before every name.

    Those of dicts inside it are named as modules name them, so that they too have to be explained.
    """
    tensors: Weights = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            tensors[str(key)] = value
        elif isinstance(value, Mapping):
            tensors |= {f"{key}.{name}": tensor for name, tensor in _tensors(value).items()}
    wrapped = tensors and all(key.startswith("module.") for key in tensors)
    return {key.removeprefix("module."): value for key, value in tensors.items()} if wrapped else tensors


def _take(left: Weights, *prefixes: str) -> Weights:
    """Move the tensors whose names start with one of the prefixes, which is cut off, out of `left`."""
    taken: Weights = {}
    for prefix in prefixes:
        for key in [key for key in left if key.startswith(prefix)]:
            taken[key.removeprefix(prefix)] = left.pop(key)
    return taken


def _take_encoder(left: Weights) -> Weights:
    return {key: left.pop(key) for key in list(left) if key in ENCODER or key.startswith(tuple(ENCODER[3:]))}


def _take_classifier(left: Weights, *prefixes: str) -> Weights:
    """A linear layer, or a BatchNorm and a linear layer (`head.0`, `head.1`)."""
    classifier: Weights = {}
    if {"head.0.running_mean", "head.1.weight"} <= left.keys():
        classifier = {ours: left.pop(key) for key, ours in _HEAD_BEHIND_NORM.items() if key in left}
        left.pop("head.0.num_batches_tracked", None)
        prefixes = ("head.1.",)
    for prefix in prefixes:
        for part in ("weight", "bias"):
            if f"{prefix}{part}" in left:
                classifier[part] = left.pop(f"{prefix}{part}")
    return classifier


def _summary(unused: Weights, name: str) -> tuple[str, ...]:
    return (f"{name} ({len(unused)} tensors)",) if unused else ()


def _others(beside: Content, name: str, format_name: str) -> tuple[str, ...]:
    """Names of what a training checkpoint holds beside the weights, such as its optimizer and epoch.

    Numbers, random states and queues of features may lie there as tensors.

    Raises:
        UserError: another tensor lies there, which could belong to the network.
    """
    loose = {
        str(key): value
        for key, value in beside.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim and "queue" not in str(key)
    }
    _explained(loose, name, format_name)
    return tuple(map(str, beside))


def _without(content: Content, *used: str) -> Content:
    return {key: value for key, value in content.items() if key not in used}


def _inner(content: Content) -> tuple[Weights, Content]:
    """The model's weights, in a dict of their own or not, and what else the file holds."""
    key = next((key for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), None)
    if key is not None:
        return _tensors(content[key]), _without(content, key)
    flat = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return _tensors(flat), _without(content, *flat)


def _explained(left: Weights, name: str, format_name: str) -> None:
    """Refuse what is left.

    Raises:
        UserError: a tensor has not been explained.
    """
    if left:
        some = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(left.items())[:6])
        raise UserError(
            f"{name!r} looks like {format_name}, but {len(left)} of its tensors are unknown: {some}"
            + (" …" if len(left) > 6 else "."),
            "Loading the rest alone could give another network than the file's. Remove them if they are not needed.",
        )


def _self_distillation(content: Content, name: str) -> Foreign | None:
    """DINO's and iBOT's training checkpoints: `teacher` and `student`, each a backbone and a head."""
    sides = {side: _tensors(content[side]) for side in ("teacher", "student") if isinstance(content.get(side), Mapping)}
    if not any("backbone.patch_embed.proj.weight" in weights for weights in sides.values()):
        return None
    ibot = any("backbone.masked_embed" in w or any("last_layer2" in key for key in w) for w in sides.values())
    format_name = f"{'iBOT' if ibot else 'DINO'} training checkpoint"
    encoders, unused = {}, _others(_without(content, *sides), name, format_name)
    for side, weights in sides.items():
        left = dict(weights)
        backbone = _take(left, "backbone.")
        unused += _summary(_take(left, "head."), f"{side}.head") + _summary(
            _take(backbone, "masked_embed"), "mask token"
        )
        encoders[side] = _take_encoder(backbone)
        _explained(left | {f"backbone.{key}": value for key, value in backbone.items()}, name, format_name)
    return Foreign(format=format_name, encoders=encoders, unused=unused)


def _ijepa(content: Content, name: str) -> Foreign | None:
    """I-JEPA: the target encoder is the one that is evaluated."""
    if not isinstance(content.get("target_encoder"), Mapping):
        return None
    encoders = {}
    beside = _without(content, "target_encoder", "encoder")
    for role, key in (("target", "target_encoder"), ("context", "encoder")):
        if isinstance(content.get(key), Mapping):
            left = _tensors(content[key])
            encoders[role] = _take_encoder(left)
            _explained(left, name, "I-JEPA")
    return Foreign(format="I-JEPA", encoders=encoders, unused=_others(beside, name, "I-JEPA"))


def _moco(content: Content, name: str) -> Foreign | None:
    """MoCo v3 and layer-grafted files: online and momentum encoder, whose `head` is the projector; predictor."""
    left, beside = _inner(content)
    if not any(key.startswith("base_encoder.") for key in left):
        return None
    encoders: dict[str, Weights] = {}
    heads: Weights = {}
    for role, prefix, ours in (
        ("online", "base_encoder.", "projector."),
        ("momentum", "momentum_encoder.", "momentum.projector."),
    ):
        side = _take(left, prefix)
        if side:
            heads |= {ours + key: value for key, value in _take(side, "head.").items()}
            encoders[role] = _take_encoder(side)
            left |= {prefix + key: value for key, value in side.items()}
    heads |= {f"predictor.{key}": value for key, value in _take(left, "predictor.").items()}
    _explained(left, name, "MoCo v3")
    norm = encoders["online"].get("norm.weight")
    return Foreign(
        format="MoCo v3 or layer-grafted",
        encoders=encoders,
        heads=heads,
        unused=_others(beside, name, "MoCo v3"),
        notes=("MoCo v3's own ViT-S has 12 heads: ?num_heads=12.",) if norm is not None and len(norm) == 384 else (),
    )


def _dinov2(content: Content, name: str) -> Foreign | None:
    """DINOv2: a mask token of two dimensions, LayerScale, perhaps registers and a gated MLP."""
    left, beside = _inner(content)
    mask = left.get("mask_token")
    if "register_tokens" not in left and (mask is None or mask.ndim != 2):
        return None
    unused = _summary(_take(left, "mask_token"), "mask token")
    registers = left.pop("register_tokens", None)
    encoder = {
        key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): value
        for key, value in _take_encoder(left).items()
    }
    if registers is not None:
        # Registers have no position, which timm knows only together with a class token that has none: it takes its own.
        positions = encoder["pos_embed"]
        encoder["cls_token"] = encoder["cls_token"] + positions[:, :1]
        encoder |= {"pos_embed": positions[:, 1:], "reg_token": registers}
    _explained(left, name, "DINOv2")
    return Foreign(
        format="DINOv2",
        encoders={"backbone": encoder},
        unused=unused + _others(beside, name, "DINOv2"),
        arguments={} if registers is None else {"no_embed_class": True},
    )


def _refiner(content: Content, name: str) -> Foreign | None:
    """MIM-Refiner: positions as an image, without one for the class token."""
    left, beside = _inner(content)
    positions = left.get("pos_embed.embed")  # (1, rows, columns, D)
    if positions is None or positions.ndim != 4:
        return None
    del left["pos_embed.embed"]
    tokens = left.pop("cls_tokens.tokens", None)
    encoder = _take_encoder(left) | {"pos_embed": positions.flatten(1, 2)}
    if tokens is not None:
        encoder["cls_token"] = tokens
    _explained(left, name, "MIM-Refiner")
    return Foreign(
        format="MIM-Refiner",
        encoders={"encoder": encoder},
        unused=_others(beside, name, "MIM-Refiner"),
        arguments={"grid": tuple(positions.shape[1:3]), "no_embed_class": True},
    )


def _hugging_face(content: Content, name: str) -> Foreign | None:
    """Hugging Face's ViT, bare or with MAE's decoder or a classifier."""
    left, beside = _inner(content)
    prefix = next((p for p in ("vit.", "") if p + huggingface.PATCHES in left), None)
    if prefix is None:
        return None
    decoder, classifier = _take(left, "decoder."), _take_classifier(left, "classifier.")
    rest = _take(left, prefix)
    if any("position_bias" in key for key in rest):
        raise UserError(
            f"{name!r} has relative position biases (BEiT, data2vec), which a ViT has no place for.",
            "Those with absolute positions alone are read.",
        )
    norm = {} if "layernorm.weight" in rest else _take(rest, "pooler.layernorm.")  # BEiT's, of the mean of the patches
    unused = _summary(_take(rest, "pooler."), "pooler") + _summary(_take(rest, "embeddings.mask_token"), "mask token")
    beit = bool(norm) or huggingface.lacks_key_bias(rest)
    rest = huggingface.to_timm(rest)
    encoder = _take_encoder(rest) | {f"fc_norm.{key}": value for key, value in norm.items()}
    _explained(left | rest, name, "a ViT of Hugging Face")
    kind = "ViTMAE" if decoder else "BEiT or data2vec" if beit else "ViT"
    heads = {f"decoder.{key}": value for key, value in huggingface.decoder_to_ours(decoder).items()}
    return Foreign(
        format=f"Hugging Face {kind}",
        encoders={"encoder": encoder},
        heads=heads,
        classifiers={"encoder": classifier},
        unused=unused + _others(beside, name, "a ViT of Hugging Face"),
        arguments={"norm_eps": huggingface.LAYER_NORM_EPS},
    )


def _timm(content: Content, name: str) -> Foreign | None:
    """MAE, iBOT's released backbone, and whatever has timm's names: DINO's and DeiT's files, timm's own."""
    left, beside = _inner(content)
    if not any(key in left for key in ("patch_embed.proj.weight", "patch_embed.proj.0.weight")):
        return None
    ibot = _take(left, "masked_embed")
    encoders = {"model": _take_encoder(left)}
    decoder = _take(left, "decoder_") | ({"mask_token": left.pop("mask_token")} if "mask_token" in left else {})
    heads = {f"decoder.{'positions' if key == 'pos_embed' else key}": value for key, value in decoder.items()}
    classifiers = {"model": _take_classifier(left, "head.")}
    format_name = (
        "MAE with decoder" if decoder else "iBOT backbone" if ibot else "ViT with timm's names (timm, MAE, DINO, …)"
    )
    averages = ("model_ema", "state_dict_ema")
    for key in averages:
        if isinstance(content.get(key), Mapping):
            averaged = _tensors(content[key])
            encoders["ema"] = _take_encoder(averaged)
            classifiers["ema"] = _take_classifier(averaged, "head.")
            left |= averaged
    _explained(left, name, format_name)
    unused = _summary(ibot, "mask token") + _others(_without(beside, *averages), name, format_name)
    return Foreign(
        format=format_name,
        encoders=encoders,
        heads=heads,
        classifiers=classifiers,
        unused=unused,
        arguments={} if decoder or ibot else {"norm_eps": 1e-5 if "norm_pre.weight" in encoders["model"] else 1e-6},
    )


# The first that knows the keys is taken, so the most particular ones come first.
READERS: tuple[Callable[[Content, str], Foreign | None], ...] = (
    _self_distillation,
    _ijepa,
    _moco,
    _dinov2,
    _refiner,
    _hugging_face,
    _timm,
)


def detect(content: Content, name: str) -> Foreign:
    """Tell the format from the keys.

    Args:
        content: what the file holds.
        name: the file, for messages.

    Raises:
        UserError: no known format, or tensors that the format does not explain.
    """
    for reader in READERS:
        foreign = reader(content, name)
        if foreign is not None:
            return foreign
    weights, _ = _inner(content)
    raise UserError(
        f"{name!r} is in no format that is known here; its first keys: {', '.join(list(map(str, weights))[:5])}.",
        "Known: MAE, MoCo v3, layer-grafted, DINO, iBOT, DINOv2, I-JEPA, MIM-Refiner, Hugging Face ViT, timm.",
    )
