"""MIM-Refiner: positions as an image, without one for the class token."""

from __future__ import annotations

from layergraft.encoders.foreign_formats.foreign import Content, Foreign, explained, inner, others, take_encoder


def read_refiner(content: Content, name: str) -> Foreign | None:
    """Read the released encoder; None where the positions are none of (1, rows, columns, D)."""
    left, beside = inner(content)
    positions = left.get("pos_embed.embed")
    if positions is None or positions.ndim != 4:
        return None
    del left["pos_embed.embed"]
    tokens = left.pop("cls_tokens.tokens", None)
    encoder = take_encoder(left) | {"pos_embed": positions.flatten(1, 2)}
    if tokens is not None:
        encoder["cls_token"] = tokens
    explained(left, name, "MIM-Refiner")
    return Foreign(
        format="MIM-Refiner",
        encoders={"encoder": encoder},
        unused=others(beside, name, "MIM-Refiner"),
        arguments={"grid": tuple(positions.shape[1:3]), "no_embed_class": True},
    )
