"""The graft plan: where each layer's weights come from and how it moves.

Thirds, geometric decay, freezing, fine-tuning with layer decay: all are ways to write this one table.
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

BELOW = ("patch_embed", "positions", "tokens")


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One layer.

    Args:
        name: `patch_embed`, `positions`, `tokens`, `blocks.N`, `norm` or `heads.NAME`.
        source: where its weights come from: `previous`, `fresh` or an encoder.
        lr_scale: factor of its learning rate.
        lr: its peak learning rate.
        weight_decay: of matrices.
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
                f"`{where}.lr_scale.blocks` has {len(blocks)} numbers, but the encoder has {depth} blocks.",
                "Give one number per block.",
            )
        return blocks[0], blocks, blocks[-1]
    if not scale or depth % len(scale):
        raise UserError(
            f"`{where}.lr_scale` has {len(scale)} equal stages, which do not divide the encoder's {depth} blocks.",
            f"Use a number of stages that divides {depth}, or one number per block: lr_scale: {{blocks: [...]}}.",
        )
    blocks = [number for number in scale for _ in range(depth // len(scale))]
    return blocks[0], blocks, blocks[-1]


def frozen_rows(config: PlanConfig, names: list[str], depth: int, where: str) -> set[str]:
    """Names of the rows that do not move."""
    if isinstance(config.freeze, FreezeBlocks):
        count = config.freeze.blocks
        if not 0 <= count <= depth:
            raise UserError(f"`{where}.freeze.blocks` is {count}, but the encoder has {depth} blocks.")
        return {*BELOW, *(f"blocks.{index}" for index in range(count))}
    frozen: set[str] = set()
    for pattern in config.freeze:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise UserError(f"`{where}.freeze` names {pattern!r}, but no layer is called so.", nearest(pattern, names))
        frozen |= hits
    return frozen


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
    _known(config.source, names, f"{where}.source")
    _known(config.weight_decay, names, f"{where}.weight_decay")
    linears = stage.objective.linears() if isinstance(stage.objective, ClassifyConfig) else {}
    peak = stage.optimizer.base_lr * (batch_size or stage.batch_size) / 256
    decay = stage.optimizer.weight_decay
    rows = []
    for row in names:
        head = row.startswith("heads.")
        if row in BELOW:
            scale = below
        elif row.startswith("blocks."):
            scale = blocks[int(row.removeprefix("blocks."))]
        else:
            scale = config.heads.lr_scale if head and config.heads.lr_scale is not None else above
        own = config.heads.weight_decay if head and config.heads.weight_decay is not None else decay
        own = next((value for pattern, value in config.weight_decay.items() if fnmatchcase(row, pattern)), own)
        grid_scale, grid_decay = linears.get(row.removeprefix("heads."), (None, None)) if head else (None, None)
        scale = scale if grid_scale is None else scale * grid_scale
        own = own if grid_decay is None else grid_decay
        covered = config.anchor is not None and not head and _anchored(row, config.anchor.blocks)
        source = next((s for p, s in config.source.items() if fnmatchcase(row, p)), "previous")
        rows.append(
            PlanRow(
                name=row,
                source=source,
                lr_scale=scale,
                lr=0.0 if row in frozen else peak * scale,
                weight_decay=own,
                weight_decay_1d=own if config.weight_decay_1d is None else config.weight_decay_1d,
                frozen=row in frozen,
                anchor={"norm": config.anchor.norm, "weight": config.anchor.weight}
                if covered and config.anchor
                else None,
                parameters=parameters[row],
            )
        )
    if {row.source for row in rows if row.name == "positions"} != {
        row.source for row in rows if row.name == "patch_embed"
    }:
        raise UserError(
            f"`{where}.source` takes positions and patch embedding from different encoders.",
            "Position tables differ between methods (rows first or columns first): take both from one.",
        )
    if all(row.frozen for row in rows):
        raise UserError(f"`{where}` freezes every layer.", "Leave at least one that is trained.")
    return Plan(tuple(rows))


def _known(patterns: Iterable[str], names: list[str], where: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(row, pattern) for row in names):
            raise UserError(f"`{where}` names {pattern!r}, but no layer is called so.", nearest(pattern, names))


def _anchored(row: str, blocks: int | None) -> bool:
    if blocks is None or row in BELOW:
        return True
    return row.startswith("blocks.") and int(row.removeprefix("blocks.")) < blocks
