"""Starting weights: each row of a plan from its source, in the encoder, the heads and their momentum copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from layergraft.encoders.safe_load import Weights
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.plan import Plan
from layergraft.objectives.base import Objective, strip_prefix
from layergraft.runs.readable import counted


@dataclass(frozen=True, kw_only=True)
class Donor:
    """What the rows of a plan can take their weights from.

    Args:
        encoder: of the stage's shape, but for its depth; None where the stage's encoder has the weights already.
        momentum: its momentum encoder, or None.
        heads: weights by their names in `heads.safetensors`.
    """

    encoder: Encoder | None = None
    momentum: Encoder | None = None
    heads: Weights = field(default_factory=dict)


def start_weights(
    encoder: Encoder,
    objective: Objective,
    plan: Plan,
    load: Callable[[str], Donor],
    say: Callable[[str], None],
) -> None:
    """Give encoder, heads and momentum copies the weights that a stage starts from.

    Online and momentum weights start equal, but for rows that go on from `previous`, whose momentum weights go on too.
    Those of frozen rows stay equal, so that both encoders can share them.

    Args:
        encoder: as the stage before left it; changed in place.
        objective: with fresh heads; changed in place.
        plan: the stage's plan.
        load: source (`previous`, `fresh` or an ENC) -> what it has to give.
        say: called with a sentence about a head that had to start fresh.

    Raises:
        UserError: a source lacks a row that is to come from it.
    """
    donors = {source: load(source) for source in dict.fromkeys(("previous", *(row.source for row in plan.rows)))}
    layers = encoder.layers()
    for row in plan.rows:
        donor = donors[row.source].encoder
        if row.name in layers and donor is not None:
            copy_row(row.name, donor, encoder, row.source)
    for name, head in objective.head_rows().items():
        row = plan[f"heads.{name}"]
        weights = strip_prefix(donors[row.source].heads, name)
        if shapes_match(head, weights):
            load_matching(head, weights)
        elif weights and row.source != "previous":
            raise UserError(f"{row.name} of {row.source!r} has another shape.", "Change the plan's `source`.")
        elif weights:
            say(f"{row.name} starts fresh: before, it had another shape.")
        elif row.source not in ("previous", "fresh"):
            say(f"{row.name} starts fresh: {row.source!r} has none.")
    objective.begin_stage(encoder)
    continue_momentum(objective, plan, donors["previous"])


def continue_momentum(objective: Objective, plan: Plan, previous: Donor) -> None:
    """Give momentum copies the momentum weights of the stage before, in trained rows that come from it."""
    continued = {row.name for row in plan.rows if row.source == "previous" and not row.frozen}
    for name, momentum_copy in objective.momentum_copies.items():
        if isinstance(momentum_copy, Encoder):
            if previous.momentum is not None:
                for row_name in momentum_copy.layers().keys() & continued:
                    copy_row(row_name, previous.momentum, momentum_copy, "previous")
        elif f"heads.{name}" in continued:
            weights = strip_prefix(previous.heads, f"momentum.{name}")
            if shapes_match(momentum_copy, weights):
                load_matching(momentum_copy, weights)


@torch.no_grad()
def copy_row(name: str, donor: Encoder, target: Encoder, source: str) -> None:
    """Copy one layer's weights, and the buffers of a convolutional stem.

    Args:
        name: of the layer, as plans write it.
        donor: where the weights come from.
        target: where they go; changed in place.
        source: what the user calls the donor, for messages.

    Raises:
        UserError: the donor has no such layer.
    """
    weights = donor.layers().get(name)
    if weights is None:
        raise UserError(
            f"{source!r} has no {name}: it has {counted(donor.depth, 'block')}.", "Change the plan's `source`."
        )
    pairs: list[tuple[Iterable[Tensor], Iterable[Tensor]]] = [(target.layers()[name], weights)]
    if name == "patch_embed":
        pairs.append((target.vit.patch_embed.buffers(), donor.vit.patch_embed.buffers()))
    for target_tensors, donor_tensors in pairs:
        for tensor, value in zip(target_tensors, donor_tensors, strict=True):
            tensor.copy_(value)


def shapes_match(head: nn.Module, weights: Weights) -> bool:
    """Whether weights hold all parameters of a head; they may hold more, as a whole projector for its first layer."""
    parameters = dict(head.named_parameters())
    return bool(parameters) and all(same_shape(value, weights.get(name)) for name, value in parameters.items())


def load_matching(head: nn.Module, weights: Weights) -> None:
    """Load weights whose shapes match, and those buffers (statistics, a queue) that have the same shape."""
    state = head.state_dict()
    head.load_state_dict(
        {name: weights[name] if same_shape(value, weights.get(name)) else value for name, value in state.items()}
    )


def same_shape(tensor: Tensor, other: Tensor | None) -> bool:
    """Whether there is another tensor, and it has the same shape."""
    return other is not None and other.shape == tensor.shape
