"""What makes two encoders the same: equal features of every image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from layergraft.encoders.vit import Encoder

# Modules and settings that change how an encoder trains or how fast it is, but no feature in evaluation mode.
_WITHOUT_EFFECT = {"Identity", "Dropout", "DropPath"}
_IRRELEVANT = {
    "training",
    "frozen",
    "inplace",
    "momentum",
    "num_classes",
    "fused_attn",
    "grad_checkpointing",
    "aug_active",
    "weight_init_mode",
    "fix_init",
}


def settings(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Numbers, names and tuples of them that a module keeps, such as eps, heads, patch size and pooling."""
    for name, value in sorted(vars(module).items()):
        parts = value if isinstance(value, tuple) else (value,)
        plain = all(isinstance(part, bool | int | float | str) for part in parts)
        if plain and not name.startswith("_") and name not in _IRRELEVANT:
            yield name, value


def encoder_identity(encoder: Encoder) -> str:
    """Return a name for an encoder that changes with whatever changes its features.

    It covers weights and buffers, mean and standard deviation of the input, and from the module tree what weights do
    not show: classes (activation), eps of norms, heads, image and patch size, pooling, prefix tokens. It is equal for
    an encoder in memory and the directory it was saved to.

    Args:
        encoder: of which no parameter is split over processes.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(repr((encoder.mean, encoder.std)).encode(), digest_size=16)
    for name, module in encoder.vit.named_modules():
        kind = type(module).__name__
        if kind not in _WITHOUT_EFFECT:
            digest.update(repr((name, kind, list(settings(module)))).encode())
    for name, value in encoder.vit.state_dict().items():
        plain = value.detach().cpu().contiguous().reshape(-1)
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
