"""I-JEPA: the target encoder is the one that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    explained,
    others,
    take_encoder,
    tensors,
    without,
)


def read_ijepa(content: Content, name: str) -> Foreign | None:
    """Read target and context encoder; None where there is no `target_encoder`."""
    if not isinstance(content.get("target_encoder"), Mapping):
        return None
    encoders = {}
    beside = without(content, "target_encoder", "encoder")
    for role, key in (("target", "target_encoder"), ("context", "encoder")):
        if isinstance(content.get(key), Mapping):
            left = tensors(content[key])
            encoders[role] = take_encoder(left)
            explained(left, name, "I-JEPA")
    return Foreign(format="I-JEPA", encoders=encoders, unused=others(beside, name, "I-JEPA"))
