"""What a `config.json` of transformers tells that weights do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from layergraft.encoders.foreign_formats.transformers_names import LAYER_NORM_EPS
from layergraft.errors import UserError

# transformers' names of activations -> timm's.
_ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
}


@dataclass(frozen=True)
class _Usual:
    """What a configuration means where it does not say it."""

    norm_eps: float = LAYER_NORM_EPS
    patch_size: int = 16
    activation: str = "gelu"
    num_heads: int = 12


_CLIP = _Usual(1e-5, 32, "quick_gelu")
_SIGLIP = _Usual(1e-6, 16, "gelu_pytorch_tanh")
MODELS = {
    "vit": _Usual(),
    "vit_mae": _Usual(),
    "vit_msn": _Usual(1e-6),
    "ijepa": _Usual(),
    "beit": _Usual(),
    "data2vec-vision": _Usual(),
    "dinov2": _Usual(1e-6, 14),
    "dinov2_with_registers": _Usual(1e-6),
    "dinov3_vit": _Usual(1e-5, num_heads=6),
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _SIGLIP,
    "clip": _CLIP,
    "siglip": _SIGLIP,
}


def known_arguments(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Read what a `config.json` of transformers tells that weights do not.

    Args:
        config: its content.
        name: the directory, for messages.

    Returns:
        `num_heads`, `norm_eps`, `act_layer` (timm's name), `grid`: rows and columns of patches, and of DINOv3
        `rope_temperature`.

    Raises:
        UserError: it is another network, uses another activation, or has numbers that are none.
    """
    kind = config.get("model_type")
    usual = MODELS.get(str(kind))
    if usual is None:
        raise UserError(
            f"{name!r} is a {kind!r} of transformers, not a ViT that is read here.",
            f"{', '.join(f'`{model}`' for model in MODELS)} are.",
        )
    if kind in ("clip", "siglip"):  # the whole model has the configuration of its tower below its own
        vision = config.get("vision_config")
        config = vision if isinstance(vision, dict) else {}
    activation = config.get("hidden_act", usual.activation)
    if str(activation) not in _ACTIVATIONS:
        raise UserError(
            f"{name!r} uses the activation {activation!r}; known are {', '.join(f'`{a}`' for a in _ACTIVATIONS)}."
        )
    arguments: dict[str, Any] = {"act_layer": _ACTIVATIONS[activation]}
    numbers: list[tuple[str, str, int | float]] = [
        ("num_heads", "num_attention_heads", usual.num_heads),
        ("norm_eps", "layer_norm_eps", usual.norm_eps),
    ]
    if kind == "dinov3_vit":
        numbers.append(("rope_temperature", "rope_theta", 100.0))
    for ours, theirs, default in numbers:
        value = config.get(theirs, default)
        if not isinstance(value, type(default) | int) or not 0 < value < math.inf:
            raise UserError(f"The config.json of {name!r} has {theirs} {value!r}, no positive number.")
        arguments[ours] = type(default)(value)
    height, width = _two_sizes(config, "image_size", 224, name)
    patch_height, patch_width = _two_sizes(config, "patch_size", usual.patch_size, name)
    return arguments | {"grid": (height // patch_height, width // patch_width)}


def _two_sizes(config: dict[str, Any], key: str, usual: int, name: str) -> tuple[int, int]:
    """Height and width in pixels, which transformers also writes as one number."""
    value = config.get(key, usual)
    sizes = value if isinstance(value, list) else [value, value]
    if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"The config.json of {name!r} has {key} {value!r}, no positive number or two.")
    return sizes[0], sizes[1]


def class_names(config: dict[str, Any], name: str) -> tuple[str, ...]:
    """The names of a classifier's outputs; none where they are transformers' placeholders.

    Raises:
        UserError: they are not numbered.
    """
    try:
        names = {int(index): str(label) for index, label in config.get("id2label", {}).items()}
    except (AttributeError, ValueError):
        raise UserError(f"The id2label in the config.json of {name!r} does not name classes by number.") from None
    ordered = tuple(names[index] for index in sorted(names))
    return () if ordered == tuple(f"LABEL_{index}" for index in range(len(ordered))) else ordered
