"""A known encoder below one prefix: the module of a training library around it, with its heads beside it.

lightly writes `backbone.vit.` and a decoder, stable-pretraining `model.encoder.vit.` and a copy of its patch embedding,
beast `vit_mae.`, open_clip `visual.trunk.` and a text tower, terratorch `encoder.`, lightly-train
`teacher_embedding_model.wrapped_model._model.`; whatever the names are, the rule is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    Reader,
    explained,
    inner,
    others,
    summary,
    tensors,
    without,
)
from layergraft.encoders.safe_load import Weights

# A patch embedding and a first block of one network: where the same prefix stands before both, a ViT begins.
_PATCHES = re.compile(
    r"^(.*?)(patch_embed\.proj\.(0\.)?weight|embeddings\.patch_embeddings?\.(projection\.)?weight"
    r"|patch_embedding\.patch_embeddings\.weight|conv_proj\.weight|conv1\.weight)$"
)
_BLOCK = re.compile(
    r"^(.*?)(blocks\.0\.(0\.)?|(encoder\.)?layers?\.0\.|encoder\.layers\.(0|encoder_layer_0)\.|transformer\.resblocks\.0\.)"
)
# Modules beside an encoder, by a word in their name, that do not change its features.
_BESIDE = re.compile(
    r"^(?!(in|input|pre|channel)_).*(head|decod|proj|predict|classif|probe|criterion|loss|metric|callback|center|queue"
    r"|prototype|mask_token|token_embedding|logit_(scale|bias)|temperature|(^|_)fc\d*$)|^text|^transformer$|^positional_embedding$"
    r"|^ln_final$"
)
_FIRST = re.compile("teacher|target")


def read_wrapped(content: Content, name: str, readers: Sequence[Reader]) -> Foreign | None:
    """Read the encoder, or the encoders, below a prefix; None where no reader knows what is there.

    Args:
        content: what the file holds.
        name: the file, for messages.
        readers: of known names without a prefix.

    Raises:
        UserError: what lies beside an encoder is neither a head nor a copy of its tensors.
    """
    weights, beside = inner(content)
    if not weights:  # in dicts of other names, such as `teacher`
        holders = {str(key): value for key, value in content.items() if _holds_patches(value)}
        weights, beside = tensors(holders), without(content, *holders)
    towers: dict[str, Foreign] = {}
    left = dict(weights)
    for prefix in _prefixes(weights):
        known = _read_below(weights, prefix, name, readers)
        if known is not None:
            start, towers[start] = known[0], known[1]
            for key in [key for key in left if key.startswith(start)]:
                del left[key]
    if not towers:
        return None
    aside = _take_siblings(left, towers)
    explained(left, name, f"{next(iter(towers.values())).format} below a prefix")
    ordered = sorted(towers, key=lambda prefix: not _FIRST.search(prefix))
    first = towers[ordered[0]]
    roles = {prefix: prefix.rstrip(".") for prefix in ordered}
    return replace(
        first,
        format=f"{first.format} below `{ordered[0]}`",
        encoders={roles[prefix]: next(iter(towers[prefix].encoders.values())) for prefix in ordered},
        classifiers={roles[prefix]: next(iter(towers[prefix].classifiers.values()), {}) for prefix in ordered},
        unused=first.unused + aside + others(beside, name, first.format),
    )


def _holds_patches(value: object) -> bool:
    return isinstance(value, Mapping) and any(_PATCHES.match(key) for key in tensors(value))


def _prefixes(weights: Weights) -> list[str]:
    """What stands before a whole ViT, in the order of the file."""
    patches = {match[1]: None for key in weights if (match := _PATCHES.match(key)) and match[1]}
    blocks = {match[1] for key in weights if (match := _BLOCK.match(key))}
    return [prefix for prefix in patches if prefix in blocks]


def _read_below(weights: Weights, prefix: str, name: str, readers: Sequence[Reader]) -> tuple[str, Foreign] | None:
    """Read with the shortest part of a prefix cut off that a reader knows the rest without: (that part, what it read).

    So a `vit_mae.` before transformers' names leaves `vit.` and `decoder.` to the reader that knows both.
    """
    parts = prefix.rstrip(".").split(".")
    for count in range(1, len(parts) + 1):
        start = ".".join(parts[:count]) + "."
        below = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
        foreign = next((found for reader in readers if (found := reader(below, name)) is not None), None)
        if foreign is not None:
            return start, foreign
    return None


def _take_siblings(left: Weights, towers: Mapping[str, Foreign]) -> tuple[str, ...]:
    """Move what lies beside the encoders and is not of them out of `left`: (what it was called)."""
    modules: dict[str, Weights] = {}
    for key in list(left):
        module = _module_beside(key, list(towers))
        if _BESIDE.search(module.rpartition(".")[2]) or _is_copy(key, left, towers):
            modules.setdefault(module, {})[key] = left.pop(key)
    return tuple(said for module, held in modules.items() for said in summary(held, module))


def _module_beside(key: str, prefixes: list[str]) -> str:
    """The outermost module of a tensor that holds no encoder: `model.decoder` of `model.decoder.0.bias`."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        module = ".".join(parts[:count])
        if not any(prefix.startswith(f"{module}.") for prefix in prefixes):
            return module
    return key


def _is_copy(key: str, left: Weights, towers: Mapping[str, Foreign]) -> bool:
    """Whether a tensor lies above an encoder with the same end of its name and the same numbers."""
    for prefix, foreign in towers.items():
        above = ""
        for part in prefix.rstrip(".").split("."):
            tail = key.removeprefix(above) if key.startswith(above) else None
            for encoder in foreign.encoders.values():
                same = encoder.get(tail or "")
                if same is not None and same.dtype == left[key].dtype and torch.equal(same, left[key]):
                    return True
            above += f"{part}."
    return False
