"""The graft plan as a recipe writes it.

`layergraft.graft.plan` makes the table with a row per layer of it, `graft.optimizer_groups` the optimizer's groups.
"""

from __future__ import annotations

from typing import Literal

from layergraft.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat


class LrScaleConfig(Config, frozen=True, kw_only=True):
    """A learning-rate scale for each block; give exactly one of the two.

    Args:
        blocks: one number per block.
        decay: geometric decay r: scale r**(L - i) for block i of L, r**(L + 1) below block 0, 1 above.
    """

    blocks: tuple[NonNegativeFloat, ...] | None = None
    decay: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if (self.blocks is None) == (self.decay is None):
            raise ValueError("give either `blocks` or `decay`")


class FreezeBlocks(Config, frozen=True, kw_only=True):
    """Freeze from below.

    Args:
        blocks: how many of the lowest blocks are frozen, with the patch embedding, positions and tokens below them.
    """

    blocks: NonNegativeInt


class AnchorConfig(Config, frozen=True, kw_only=True):
    """A penalty that holds layers near their weights at the start of the stage.

    Args:
        norm: `l1` is the sum of absolute differences, `l2` half the sum of squares.
        weight: its factor in the loss.
        blocks: how many of the lowest blocks it covers, with everything below them; null covers the whole encoder.
        rows: names or patterns of the rows it covers instead, heads among them (`blocks.*`, `heads.projector`).
    """

    norm: Literal["l1", "l2"] = "l1"
    weight: NonNegativeFloat = 1e-5
    blocks: NonNegativeInt | None = None
    rows: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.blocks is not None and self.rows is not None:
            raise ValueError("give either `blocks` or `rows`")


class HeadsPlanConfig(Config, frozen=True, kw_only=True):
    """What the rows of the heads get: projector, predictor, decoder, all that an objective adds to the encoder.

    Args:
        lr_scale: scale of the heads' learning rate; null takes the final norm's.
        weight_decay: weight decay of the heads' matrices; null takes the optimizer's.
        source: where the heads' weights come from: `previous`, `fresh` or an encoder; a pattern of the plan's own
            `source` that matches a head wins.
    """

    lr_scale: NonNegativeFloat | None = None
    weight_decay: NonNegativeFloat | None = None
    source: str = "previous"


class PlanConfig(Config, frozen=True, kw_only=True):
    """How each layer moves in a stage.

    Args:
        lr_scale: scale of the learning rate: a number for all layers; a list for equal parts of the blocks (three
            numbers: thirds); `{blocks: [...]}` or `{decay: r}`. Layers below block 0 take the lowest block's, final
            norm and heads the highest's; with `decay` r the former take r**(L + 1) and the latter 1.
        freeze: names or patterns of rows that do not move (`patch_embed`, `blocks.*`), or `{blocks: K}`.
        source: where a row's weights come from, pattern -> `previous`, `fresh` or an encoder; the first match wins.
        force_positions: take positions and patch embedding from different encoders all the same.
        anchor: penalty that holds rows near their start.
        weight_decay: weight decay of rows where it is not the optimizer's, pattern -> value; the first match wins.
        weight_decay_1d: weight decay of biases and norms; null decays them like the matrices.
        heads: exceptions for the heads.
    """

    lr_scale: NonNegativeFloat | tuple[NonNegativeFloat, ...] | LrScaleConfig = 1.0
    freeze: tuple[str, ...] | FreezeBlocks = ("positions",)
    source: dict[str, str] = {}
    force_positions: bool = False
    anchor: AnchorConfig | None = None
    weight_decay: dict[str, NonNegativeFloat] = {}
    weight_decay_1d: NonNegativeFloat | None = 0.0
    heads: HeadsPlanConfig = HeadsPlanConfig()
