"""What follows the `?` of an ENC."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qsl

from layergraft.config.encoder import ImageSize
from layergraft.errors import UserError, nearest

# timm's names of the activations that ViTs with the same keys are trained with -> their classes.
ACTIVATIONS = {"gelu": "GELU", "gelu_tanh": "GELUTanh", "quick_gelu": "QuickGELU"}
Number = TypeVar("Number", int, float)
EXAMPLES = {
    "encoder": "?encoder=momentum",
    "num_heads": "?num_heads=6",
    "img_size": "?img_size=224",
    "norm_eps": "?norm_eps=1e-6",
    "act": "?act=quick_gelu",
    "pool": "?pool=mean",
    "mean": "?mean=0.5,0.5,0.5",
    "std": "?std=0.5,0.5,0.5",
}


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Options of an ENC; None where one is not given.

    Args:
        encoder: which of several encoders.
        num_heads: attention heads of a block.
        img_size: side of the images that positions are resized for, in pixels, or height and width.
        norm_eps: what LayerNorms add to the variance.
        act: activation of the MLPs, one of `ACTIVATIONS`.
        pool: `mean` makes the mean of the patches the feature, where it would be the class token.
        mean: mean of each channel, or one for all, of pixels in [0, 1].
        std: standard deviation of each channel, or one for all.
    """

    encoder: str | None = None
    num_heads: int | None = None
    img_size: ImageSize | None = None
    norm_eps: float | None = None
    act: str | None = None
    pool: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def parse_options(query: str, address: str) -> EncoderOptions:
    """Read what follows the `?`.

    Args:
        query: `key=value`, joined by `&`.
        address: what stands before the `?`, for messages.

    Raises:
        UserError: an unknown option, or a value that it cannot have.
    """
    texts = dict(parse_qsl(query, keep_blank_values=True))
    for key in texts:
        if key not in EXAMPLES:
            raise UserError(f"An encoder has no option {key!r} ({address}?{query}).", nearest(key, EXAMPLES))
    return EncoderOptions(
        encoder=texts.get("encoder"),
        num_heads=_positive("num_heads", texts, address, int, "whole number"),
        img_size=_size(texts, address),
        norm_eps=_positive("norm_eps", texts, address, float, "number"),
        act=_one_of("act", texts, address, tuple(ACTIVATIONS)),
        pool=_one_of("pool", texts, address, ("mean",)),
        mean=_levels("mean", texts, address),
        std=_levels("std", texts, address),
    )


def _positive(key: str, texts: dict[str, str], address: str, read: Callable[[str], Number], kind: str) -> Number | None:
    """A positive, finite number of a kind; None where the option is not given."""
    if key not in texts:
        return None
    try:
        value = read(texts[key])
    except ValueError:
        value = read("0")
    if not 0 < value < math.inf:
        raise _wrong(key, texts[key], f"no positive {kind}", address)
    return value


def _one_of(key: str, texts: dict[str, str], address: str, choices: tuple[str, ...]) -> str | None:
    """One of a few words; None where the option is not given."""
    if key in texts and texts[key] not in choices:
        raise _wrong(key, texts[key], f"none of {', '.join(choices)}", address)
    return texts.get(key)


def _size(texts: dict[str, str], address: str) -> ImageSize | None:
    """A side, or `height,width`."""
    parts = texts.get("img_size", "").split(",")
    if len(parts) != 2:
        return _positive("img_size", texts, address, int, "whole number")
    height, width = (_positive("img_size", {"img_size": part}, address, int, "whole number") or 0 for part in parts)
    return height, width


def _levels(key: str, texts: dict[str, str], address: str) -> tuple[float, ...] | None:
    """Numbers in [0, 1], a standard deviation above 0."""
    if key not in texts:
        return None
    try:
        values = tuple(float(text) for text in texts[key].split(","))
    except ValueError:
        values = (math.nan,)
    if not all(0 <= value <= 1 and (value > 0 or key == "mean") for value in values):
        reason = (
            "no number in [0, 1] for each channel"
            if key == "mean"
            else "no number above 0, at most 1, for each channel"
        )
        raise _wrong(key, texts[key], reason, address)
    return values


def _wrong(key: str, text: str, reason: str, address: str) -> UserError:
    return UserError(f"`?{key}={text}` is {reason} ({address}).", f"For instance: {EXAMPLES[key]}.")
