"""Multi-task learning: the weighted sum of several objectives on one encoder."""

from __future__ import annotations

import torch
from torch import nn

from layergraft.config.objectives import JointConfig
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.objectives.base import Features, Losses, Objective, Progress, strip_prefix


class Joint(Objective):
    """Several objectives on one encoder; the loss is their weighted sum.

    A part is an objective of its own, `parts[NAME]`. Its heads and momentum copies are the joint objective's, by the
    names they have where the part is trained alone, so that stages before and after can hand them on.

    Args:
        config: the weights of the parts.
        parts: the objectives by name.

    Raises:
        UserError: two parts have a head of the same name.
    """

    def __init__(self, config: JointConfig, parts: dict[str, Objective]) -> None:
        super().__init__()
        self.weights = {name: config.weights.get(name, 1.0) for name in parts}
        # A plain dict: registered a second time, the parts' heads would stand twice in the state.
        self.parts = parts
        for name, objective in parts.items():
            for head, module in objective.heads.items():
                if head in self.heads:
                    raise UserError(
                        f"Two parts of a joint objective have a head {head!r}; part {name!r} is the second.",
                        "Join objectives of different kinds.",
                    )
                self.heads[head] = module

    def unused_layers(self, encoder: Encoder) -> list[str]:
        """Those that no part uses."""
        first, *others = (part.unused_layers(encoder) for part in self.parts.values())
        unused = set(first).intersection(*others)
        return [row for row in first if row in unused]

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """Those whose gradient is zero in every part."""
        first, *others = (part.zero_gradient_parameters(encoder) for part in self.parts.values())
        in_all = set(map(id, first)).intersection(*(map(id, parameters) for parameters in others))
        return [parameter for parameter in first if id(parameter) in in_all]

    def begin_stage(self, encoder: Encoder) -> None:
        for part in self.parts.values():
            part.begin_stage(encoder)
            self.momentum_copies.update(dict(part.momentum_copies.items()))

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        return {
            f"{name}.{key}": value
            for name, part in self.parts.items()
            for key, value in part.encode(encoder, batch).items()
        }

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        """`loss` is the weighted sum; each part's own loss goes by its name, what that consists of by `part.name`."""
        named: Losses = {}
        pending: Pending = {}
        for name, part in self.parts.items():
            losses, changes = part.losses(strip_prefix(features, name), progress)
            named |= {name if key == "loss" else f"{name}.{key}": value for key, value in losses.items()}
            pending |= {f"{name}.{key}": value for key, value in changes.items()}
        total = torch.stack([weight * named[name] for name, weight in self.weights.items()]).sum()
        return {"loss": total} | named, pending

    def before_step(self, encoder: Encoder, progress: Progress) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for part in self.parts.values():
            numbers |= part.before_step(encoder, progress)
        return numbers

    def after_step(self, pending: Pending) -> None:
        for name, part in self.parts.items():
            part.after_step(strip_prefix(pending, name))
