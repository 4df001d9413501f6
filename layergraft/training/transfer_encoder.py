"""Where a trained protocol begins: the encoder in the shape that its stage asks for."""

from __future__ import annotations

import re

from msgspec import structs

from layergraft.config.encoder import EncoderConfig
from layergraft.config.plan import PlanConfig
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import ClassifyConfig
from layergraft.encoders.adapt import norm_eps, set_norm_eps
from layergraft.encoders.checkpoint import load_heads
from layergraft.encoders.network import named_as_config
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.graft.initialize import copy_row


def encoder_config(encoder: Encoder) -> EncoderConfig:
    """The configuration that an encoder could have been made from."""
    known = {field.name for field in structs.fields(EncoderConfig)}
    arguments = {name: value for name, value in named_as_config(encoder.model_args).items() if name in known}
    sizes = {"img_size": encoder.img_size, "in_chans": encoder.in_chans}
    return EncoderConfig(name=encoder.architecture, **(arguments | sizes))


def grown(encoder: Encoder, plan: PlanConfig) -> Encoder:
    """The encoder with the blocks that a plan's `source` appends: those it names above the last one."""
    named = [int(row.removeprefix("blocks.")) for row in plan.source if re.fullmatch(r"blocks\.\d+", row)]
    depth = max([encoder.depth, *(index + 1 for index in named)])
    if depth == encoder.depth:
        return encoder
    larger = create_encoder(structs.replace(encoder_config(encoder), depth=depth), 0, encoder.mean, encoder.std)
    larger.reads = encoder.reads
    set_norm_eps(larger, norm_eps(encoder))
    for row in encoder.layers():
        copy_row(row, encoder, larger, "the encoder")
    return larger


def check_projector(config: StageConfig, start: str) -> None:
    """Find out before training whether the encoder brought the projector that a classifier is to keep.

    Raises:
        UserError: it brought none, or one of another width.
    """
    if isinstance(config.objective, ClassifyConfig) and config.objective.projector is not None:
        width = config.objective.projector
        weight = load_heads(start).get("projector.0.weight")
        if weight is None or len(weight) != width:
            has = "none" if weight is None else f"one of width {len(weight)}"
            raise UserError(
                f"A projector's first linear of width {width} was asked for, but {start!r} brings {has}.",
                "Set finetune.objective.projector to its width, or to null.",
            )
