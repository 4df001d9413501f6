"""Carry out a plan: freezing, anchor; what the optimizer gets is in `optimizer_groups`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from layergraft.config.encoder import ImageSize, height_and_width, shown_size
from layergraft.config.stage import StageConfig
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.sharding import local
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.plan import Plan, build_plan
from layergraft.objectives.base import Objective

RowParameters = dict[str, list[nn.Parameter]]


def stage_rows(encoder: Encoder, objective: Objective) -> RowParameters:
    """Every row of a stage's plan and its parameters."""
    return encoder.layers() | {f"heads.{name}": list(head.parameters()) for name, head in objective.head_rows().items()}


def stage_plan(
    stage: StageConfig, name: str, encoder: Encoder, objective: Objective, batch_size: int | None = None
) -> tuple[RowParameters, Plan]:
    """Make the rows and the table of a stage.

    Args:
        stage: the stage's configuration.
        name: its name, for messages.
        encoder: what it trains.
        objective: what it trains for.
        batch_size: the global batch, where it is not the configured one.

    Returns:
        (row -> its parameters, the table; see `build_plan`).

    Raises:
        UserError: the plan does not fit the encoder, or would train layers that the loss does not depend on; or the
            patches do not tile a view.
    """
    _check_sizes(stage, name, encoder.patch_size)
    rows = stage_rows(encoder, objective)
    plan = build_plan(stage, name, count_parameters(rows), encoder.depth, batch_size)
    idle = [row for row in objective.unused_layers(encoder) if not plan[row].frozen]
    if idle:
        raise UserError(
            f"No head of stage {name!r} depends on {', '.join(idle)}.",
            f"Add a head above, or freeze: stages.{name}.plan.freeze: [patch_embed, positions, {', '.join(idle)}].",
        )
    return rows, plan


def _check_sizes(stage: StageConfig, name: str, patch_size: int) -> None:
    """Refuse views, and images of a first part of a stage, that patches do not tile."""
    for view, config in stage.views.items():
        if config.size is not None and not _is_tiled(config.size, patch_size):
            raise UserError(
                f"View {view!r} of stage {name!r} has {shown_size(config.size)} pixels, no multiple of the patch size "
                f"{patch_size}.",
                f"Set stages.{name}.views.{view}.size.",
            )
    for phase in stage.progressive:
        if phase.size is None:
            continue
        if not _is_tiled(phase.size, patch_size):
            raise UserError(
                f"A part of stage {name!r} has images of {shown_size(phase.size)} pixels, no multiple of the patch "
                f"size {patch_size}.",
                f"Change `size` in stages.{name}.progressive.",
            )
        if stage.views and all(view.size is not None for view in stage.views.values()):
            raise UserError(
                f"`stages.{name}.progressive` has a `size`, but every view of the stage has one of its own.",
                f"Leave out stages.{name}.views.{next(iter(stage.views))}.size, or this one.",
            )


def _is_tiled(size: ImageSize, patch_size: int) -> bool:
    return not any(side % patch_size for side in height_and_width(size))


def set_frozen(rows: RowParameters, plan: Plan) -> None:
    """Frozen rows need no gradient."""
    for row in plan.rows:
        for parameter in rows[row.name]:
            parameter.requires_grad_(not row.frozen)


def hold_statistics(encoder: Encoder, objective: Objective, plan: Plan) -> None:
    """A frozen convolutional stem keeps its statistics, in the encoder and in its momentum copy."""
    for network in (encoder, *objective.momentum_copies.values()):
        if isinstance(network, Encoder) and isinstance(network.vit.patch_embed, ConvStem):
            network.vit.patch_embed.frozen = plan["patch_embed"].frozen
            network.train(network.training)


class Anchor:
    """The penalty that holds rows near their weights right after grafting.

    Args:
        rows: the stage's rows.
        plan: the stage's plan.
    """

    def __init__(self, rows: RowParameters, plan: Plan) -> None:
        self.terms: list[tuple[str, float, nn.Parameter]] = []
        for row in plan.rows:
            if row.anchor is not None and not row.frozen:
                norm, weight = str(row.anchor["norm"]), float(row.anchor["weight"])
                self.terms += [(norm, weight, parameter) for parameter in rows[row.name]]
        self.start: list[Tensor] = [parameter.detach().clone() for _, _, parameter in self.terms]

    @torch.no_grad()
    def pull(self) -> Tensor | None:
        """Add the penalty's gradient to the parameters'; returns the penalty, in fp32, None where nothing is anchored.

        The gradient has a closed form, so no graph is kept, a loss scale does not concern it, and a split parameter is
        held shard by shard; the penalty is then that of this process's shards.
        """
        if not self.terms:
            return None
        parts = []
        for (norm, weight, parameter), start in zip(self.terms, self.start, strict=True):
            difference = local(parameter) - local(start)
            l1 = norm == "l1"
            parts.append(weight * (difference.abs().sum() if l1 else 0.5 * difference.square().sum()))
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            local(parameter.grad).add_(difference.sign() if l1 else difference, alpha=weight)
        return torch.stack(parts).sum()


def count_parameters(rows: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, int]:
    """Row -> how many numbers it has."""
    return {name: sum(parameter.numel() for parameter in parameters) for name, parameters in rows.items()}
