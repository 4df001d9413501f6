"""The graft plan: where each layer's weights come from and how it moves.

Thirds, geometric decay, freezing, fine-tuning with layer decay: all are ways to write this one table.
`graft.optimizer_groups.parameter_groups` turns it into the optimizer's groups, with each row's `lr` and `weight_decay`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from layergraft.config.plan import FreezeBlocks, LrScaleConfig, PlanConfig
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import ClassifyConfig
from layergraft.errors import UserError, nearest
from layergraft.runs.readable import counted

BELOW = ("patch_embed", "positions", "tokens")


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One layer.

    Args:
        name: `patch_embed`, `positions`, `tokens`, `blocks.N`, `norm` or `heads.NAME`.
        source: where its weights come from: `previous`, `fresh` or an encoder.
        lr_scale: factor of its learning rate.
        lr: its peak learning rate.
        weight_decay: of matrices and tokens.
        weight_decay_1d: of biases and norms.
        frozen: whether it stays as it is.
        anchor: penalty that holds it near its start, or None.
        parameters: how many numbers it has.
    """

    name: str
    source: str
    lr_scale: float
    lr: float
    weight_decay: float
    weight_decay_1d: float
    frozen: bool
    anchor: dict[str, str | float] | None
    parameters: int


@dataclass(frozen=True)
class Plan:
    """All rows of a stage, from the patches up."""

    rows: tuple[PlanRow, ...]

    def __getitem__(self, name: str) -> PlanRow:
        return next(row for row in self.rows if row.name == name)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]


def block_scales(config: PlanConfig, depth: int, where: str) -> tuple[float, list[float], float]:
    """The lr scale below the blocks, of each block, and above them.

    Raises:
        UserError: the list does not fit the depth.
    """
    scale = config.lr_scale
    if isinstance(scale, (int, float)):
        return scale, [float(scale)] * depth, scale
    if isinstance(scale, LrScaleConfig):
        if scale.decay is not None:
            r = scale.decay
            return r ** (depth + 1), [r ** (depth - index) for index in range(depth)], 1.0
        blocks = list(scale.blocks or ())
        if len(blocks) != depth:
            raise UserError(
                f"`{where}.lr_scale.blocks` has {counted(len(blocks), 'number')}, but the encoder has "
                f"{counted(depth, 'block')}.",
                "Give one number per block.",
            )
        return blocks[0], blocks, blocks[-1]
    if not scale or depth % len(scale):
        raise UserError(
            f"`{where}.lr_scale` has {counted(len(scale), 'equal stage')}, which do not divide the "
            f"encoder's {counted(depth, 'block')}.",
            f"Use a number of stages that divides {depth}, or one number per block: lr_scale: {{blocks: [...]}}.",
        )
    blocks = [number for number in scale for _ in range(depth // len(scale))]
    return blocks[0], blocks, blocks[-1]


def matching(patterns: Iterable[str], names: list[str], where: str) -> set[str]:
    """Names of the rows that any of the patterns fits.

    Raises:
        UserError: a pattern fits none.
    """
    matched: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise UserError(f"`{where}` names {pattern!r}, but no layer is called so.", nearest(pattern, names))
        matched |= hits
    return matched


def lowest(count: int, depth: int, where: str) -> set[str]:
    """Names of the lowest `count` blocks and all rows below them.

    Raises:
        UserError: there are not so many.
    """
    if not 0 <= count <= depth:
        raise UserError(f"`{where}.blocks` is {count}, but the encoder has {counted(depth, 'block')}.")
    return {*BELOW, *(f"blocks.{index}" for index in range(count))}


def frozen_rows(config: PlanConfig, names: list[str], depth: int, where: str) -> set[str]:
    """Names of the rows that do not move."""
    if isinstance(config.freeze, FreezeBlocks):
        return lowest(config.freeze.blocks, depth, f"{where}.freeze")
    return matching(config.freeze, names, f"{where}.freeze")


def anchored_rows(config: PlanConfig, names: list[str], depth: int, where: str) -> set[str]:
    """Names of the rows that the anchor holds."""
    if config.anchor is None:
        return set()
    if config.anchor.rows is not None:
        return matching(config.anchor.rows, names, f"{where}.anchor.rows")
    if config.anchor.blocks is not None:
        return lowest(config.anchor.blocks, depth, f"{where}.anchor")
    return {name for name in names if not name.startswith("heads.")}


def row_source(config: PlanConfig, row: str) -> str:
    """Where a row's weights come from."""
    default = config.heads.source if row.startswith("heads.") else "previous"
    return next((source for pattern, source in config.source.items() if fnmatchcase(row, pattern)), default)


def build_plan(
    stage: StageConfig, name: str, parameters: Mapping[str, int], depth: int, batch_size: int | None = None
) -> Plan:
    """The table of a stage.

    Args:
        stage: the stage's configuration.
        name: its name, for messages.
        parameters: row -> how many numbers it has, in order; heads as `heads.NAME`.
        depth: blocks of the encoder.
        batch_size: the global batch, where it is not the configured one.

    Raises:
        UserError: the plan does not fit the encoder.
    """
    config, where = stage.plan, f"stages.{name}.plan"
    below, blocks, above = block_scales(config, depth, where)
    names = list(parameters)
    frozen = frozen_rows(config, names, depth, where)
    anchored = anchored_rows(config, names, depth, where)
    matching(config.source, names, f"{where}.source")
    matching(config.weight_decay, names, f"{where}.weight_decay")
    linears = stage.objective.linears() if isinstance(stage.objective, ClassifyConfig) else {}
    anchor: dict[str, str | float] | None
    anchor = None if config.anchor is None else {"norm": config.anchor.norm, "weight": config.anchor.weight}
    peak = stage.optimizer.base_lr * (batch_size or stage.batch_size) / 256
    rows = []
    for row in names:
        scale, decay = above, stage.optimizer.weight_decay
        if row in BELOW:
            scale = below
        elif row.startswith("blocks."):
            scale = blocks[int(row.removeprefix("blocks."))]
        elif row.startswith("heads."):
            scale = above if config.heads.lr_scale is None else config.heads.lr_scale
            decay = decay if config.heads.weight_decay is None else config.heads.weight_decay
        decay = next((value for pattern, value in config.weight_decay.items() if fnmatchcase(row, pattern)), decay)
        # Heads of a grid bring a rate and a decay of their own.
        grid_scale, grid_decay = linears.get(row.removeprefix("heads."), (None, None))
        scale = scale if grid_scale is None else scale * grid_scale
        decay = decay if grid_decay is None else grid_decay
        rows.append(
            PlanRow(
                name=row,
                source=row_source(config, row),
                lr_scale=scale,
                lr=0.0 if row in frozen else peak * scale,
                weight_decay=decay,
                weight_decay_1d=decay if config.weight_decay_1d is None else config.weight_decay_1d,
                frozen=row in frozen,
                anchor=anchor if row in anchored else None,
                parameters=parameters[row],
            )
        )
    if not config.force_positions and row_source(config, "positions") != row_source(config, "patch_embed"):
        raise UserError(
            f"`{where}.source` takes positions and patch embedding from different encoders.",
            "Position tables differ between methods (rows first or columns first): take both from one, "
            "or set `force_positions: true`.",
        )
    if all(row.frozen for row in rows):
        raise UserError(f"`{where}` freezes every layer.", "Leave at least one that is trained.")
    return Plan(tuple(rows))
