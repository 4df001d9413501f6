"""What a foreign file holds, with timm's names, and the tools that its readers share.

Every tensor of a file is the encoder's, a head's, or named as unused. One that nobody can explain is an error: a format
that is almost known would else be loaded almost right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layergraft.encoders.safe_load import Weights
from layergraft.errors import UserError
from layergraft.runs.readable import counted

Content = Mapping[str, Any]
ENCODER = ("cls_token", "pos_embed", "reg_token", "patch_embed.", "norm_pre.", "blocks.", "norm.", "fc_norm.")
_HEAD_BEHIND_NORM = {"head.0.running_mean": "running_mean", "head.0.running_var": "running_var"}
# What `torch.compile`, sharding and recomputing put into names of modules, at any depth.
_TORCH_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


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
            `no_embed_class`, `act_layer`, `rotary` (see `infer_architecture`).
        notes: what the user should know about this format.
    """

    format: str
    encoders: dict[str, Weights]
    heads: Weights = field(default_factory=dict)
    classifiers: dict[str, Weights] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Reader = Callable[[Content, str], Foreign | None]


def tensors(content: Content) -> Weights:
    """The tensors of a dict, without what torch's wrappers (data-parallel, compiled, sharded) put into every name.

    Those of dicts inside it are named as modules name them, so that they too have to be explained.
    """
    named: Weights = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            named[_TORCH_WRAPPERS.sub("", str(key))] = value
        elif isinstance(value, Mapping):
            named |= {f"{key}.{name}": tensor for name, tensor in tensors(value).items()}
    wrapped = named and all(key.startswith("module.") for key in named)
    return {key.removeprefix("module."): value for key, value in named.items()} if wrapped else named


def inner(content: Content) -> tuple[Weights, Content]:
    """The model's weights, in a dict of their own or not, and what else the file holds."""
    key = next((key for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), None)
    if key is not None:
        return tensors(content[key]), without(content, key)
    flat = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors(flat), without(content, *flat)


def without(content: Content, *used: str) -> Content:
    """The content but for some of its keys."""
    return {key: value for key, value in content.items() if key not in used}


def take(left: Weights, *prefixes: str) -> Weights:
    """Move the tensors whose names start with one of the prefixes, which is cut off, out of `left`."""
    taken: Weights = {}
    for prefix in prefixes:
        for key in [key for key in left if key.startswith(prefix)]:
            taken[key.removeprefix(prefix)] = left.pop(key)
    return taken


def take_encoder(left: Weights) -> Weights:
    """Move what has a name of timm's ViT out of `left`."""
    return {key: left.pop(key) for key in list(left) if key in ENCODER or key.startswith(tuple(ENCODER[3:]))}


def take_classifier(left: Weights, *prefixes: str) -> Weights:
    """Move a linear layer, or a BatchNorm and a linear layer (`head.0`, `head.1`), out of `left`."""
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


def renamed(weights: Weights, rules: tuple[Rule, ...]) -> Weights:
    """Weights with new names: of the rules (pattern, replacement) all that match apply, in turn."""
    return {rename(name, rules): value for name, value in weights.items()}


def rename(name: str, rules: tuple[Rule, ...]) -> str:
    """One name by the rules (pattern, replacement), in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def joined(weights: Weights, parts: tuple[str, ...], whole: str) -> Weights:
    """Tensors that timm has as one, such as query, key and value, in one; what is no such set stays as it is.

    Args:
        weights: with names that contain one of the parts.
        parts: such as `.q_proj.`, in timm's order.
        whole: what takes their place in the name.
    """
    result = dict(weights)
    for name, first in weights.items():
        if parts[0] not in name:
            continue
        names = [name.replace(parts[0], part) for part in parts]
        if set(names) <= result.keys() and first.ndim and all(result[other].shape == first.shape for other in names):
            result[name.replace(parts[0], whole)] = torch.cat([result.pop(other) for other in names])
    return result


def summary(unused: Weights, name: str) -> tuple[str, ...]:
    """What to say of tensors that are left aside; nothing where there are none."""
    return (f"{name} ({counted(len(unused), 'tensor')})",) if unused else ()


def others(beside: Content, name: str, format_name: str) -> tuple[str, ...]:
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
    explained(loose, name, format_name)
    return tuple(map(str, beside))


def explained(left: Weights, name: str, format_name: str) -> None:
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
