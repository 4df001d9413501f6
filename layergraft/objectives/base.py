"""What the loop asks of an objective."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from layergraft.data.batch import Batch
from layergraft.data.sources.source import Source
from layergraft.encoders.batchnorm import Pending, apply_pending
from layergraft.encoders.vit import Encoder

Losses = dict[str, Tensor]
Features = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a stage stands.

    Args:
        step: steps done.
        steps: steps of the whole stage.
    """

    step: int
    steps: int

    @property
    def fraction(self) -> float:
        return self.step / self.steps


class Objective(nn.Module):
    """Turns views of a batch into losses.

    `heads` are its trained parts, a row of the plan each. `momentum_copies` follow the trained parts by momentum,
    `momentum_copies["encoder"]` among them; it is empty where there are none. `per_sample` says that the loss is a mean
    over samples that do not see each other, so that a batch can be split into parts that go all the way. Objectives
    with labels name a `selection_metric`: the held-out number that chooses their best epoch.
    """

    per_sample: bool = False
    selection_metric: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        self.momentum_copies = nn.ModuleDict()

    def head_rows(self) -> dict[str, nn.Module]:
        """The heads by their names in the plan; those of one kind on several blocks are `NAME.BLOCK`."""
        rows: dict[str, nn.Module] = {}
        for name, head in self.heads.items():
            several = head.items() if isinstance(head, nn.ModuleDict) else ()
            rows |= {f"{name}.{block}": part for block, part in several} or {name: head}
        return rows

    def unused_layers(self, encoder: Encoder) -> list[str]:
        """Rows of the encoder that the losses do not depend on."""
        return []

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """Parameters whose true gradient is zero because a BatchNorm downstream cancels them.

        The computed gradient is rounding noise, which Adam would scale up to full-size steps that differ between
        machines; the trainer zeroes it.
        """
        return []

    def begin_stage(self, encoder: Encoder) -> None:
        """Called once the encoder and the heads have the weights that the stage starts from: make momentum copies."""

    @abstractmethod
    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        """Per-sample features of the views; changes no state."""

    @abstractmethod
    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        """Heads and loss on the whole batch: a dict with `loss` and its named parts, and what `after_step` needs."""

    def before_step(self, encoder: Encoder, progress: Progress) -> dict[str, float]:
        """Called once before each optimizer step's keys are computed; returns numbers for the metrics."""
        return {}

    def evaluate_holdout(self, encoder: Encoder, source: Source) -> dict[str, float]:
        """Numbers on held-out images for the metrics, `selection_metric` among them; the highest is the best epoch."""
        return {}

    def measure(self, encoder: Encoder, source: Source) -> dict[str, float]:
        """Metric -> value in percent on labelled images, for what predicts labels; chooses nothing, so test images may
        be given."""
        return {}

    def after_step(self, pending: Pending) -> None:
        """Called only if the step was accepted."""
        apply_pending(self, pending)
