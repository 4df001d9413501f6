"""Starting weights: each row of a plan from its source, in the encoder, the heads and their momentum copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.plan import Plan
from layergraft.objectives.base import Objective

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What rows can be taken from.

    Args:
        encoder: of the shape of the stage's own, but for its depth; None where the stage's own has the weights already.
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
    load: Callable[[str], Origin],
    say: Callable[[str], None],
) -> None:
    """Give encoder, heads and momentum copies the weights that a stage starts from.

    Online and momentum weights start equal, but for rows that go on from `previous`, whose momentum weights go on too.
    Those of frozen rows stay equal, so that both encoders can share them.

    Args:
        encoder: as the stage before left it; changed in place.
        objective: with fresh heads; changed in place.
        plan: the stage's plan.
        load: source (`previous`, `fresh` or an ENC) -> what is there.
        say: called with a sentence about a head that had to start fresh.

    Raises:
        UserError: a source lacks a row that is to come from it.
    """
    origins = {source: load(source) for source in dict.fromkeys(("previous", *(row.source for row in plan.rows)))}
    own = encoder.layers()
    for row in plan.rows:
        donor = origins[row.source].encoder
        if row.name in own and donor is not None:
            copy_row(row.name, donor, encoder, row.source)
    for name, head in objective.head_rows().items():
        row = plan[f"heads.{name}"]
        given = below(origins[row.source].heads, name)
        if agrees(head, given):
            take(head, given)
        elif given and row.source != "previous":
            raise UserError(f"{row.name} of {row.source!r} has another shape.", "Change the plan's `source`.")
        elif given:
            say(f"{row.name} starts fresh: before, it had another shape.")
        elif row.source not in ("previous", "fresh"):
            say(f"{row.name} starts fresh: {row.source!r} has none.")
    objective.begin_stage(encoder)
    previous = origins["previous"]
    goes_on = {row.name for row in plan.rows if row.source == "previous" and not row.frozen}
    for name, slow in objective.momentum_copies.items():
        if isinstance(slow, Encoder):
            for row_name in slow.layers().keys() & goes_on if previous.momentum else ():
                assert previous.momentum is not None
                copy_row(row_name, previous.momentum, slow, "previous")
        elif f"heads.{name}" in goes_on and agrees(slow, given := below(previous.heads, f"momentum.{name}")):
            take(slow, given)


@torch.no_grad()
def copy_row(name: str, donor: Encoder, target: Encoder, source: str) -> None:
    """Copy one layer, the buffers of a convolutional stem with it.

    Raises:
        UserError: the donor has no such layer.
    """
    given = donor.layers().get(name)
    if given is None:
        raise UserError(f"{source!r} has no {name}: it has {donor.depth} blocks.", "Change the plan's `source`.")
    pairs: list[tuple[Iterable[Tensor], Iterable[Tensor]]] = [(target.layers()[name], given)]
    if name == "patch_embed":
        pairs.append((target.vit.patch_embed.buffers(), donor.vit.patch_embed.buffers()))
    for own, other in pairs:
        for tensor, value in zip(own, other, strict=True):
            tensor.copy_(value)


def below(weights: Weights, name: str) -> Weights:
    """The weights of one head, by the names that the head itself uses."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def agrees(head: nn.Module, given: Weights) -> bool:
    """Whether weights hold all parameters of a head; they may hold more, as a whole projector for its first layer."""
    own = dict(head.named_parameters())
    return bool(own) and all(fits(parameter, given.get(name)) for name, parameter in own.items())


def take(head: nn.Module, given: Weights) -> None:
    """Load weights that agree, and those buffers (statistics, a queue) that have the same shape."""
    own = head.state_dict()
    head.load_state_dict({name: given[name] if fits(value, given.get(name)) else value for name, value in own.items()})


def fits(own: Tensor, given: Tensor | None) -> bool:
    return given is not None and given.shape == own.shape
