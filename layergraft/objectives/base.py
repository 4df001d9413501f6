"""The interface of an objective: what the training loop calls."""

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


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors called `PREFIX.NAME`, by `NAME`: what belongs to one part or head, as it calls them itself."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is.

    Args:
        step: steps done.
        steps: steps of the whole stage.
    """

    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, in [0, 1]."""
        return self.step / self.steps


class Objective(nn.Module):
    """Turns the views of a batch into a loss, in two steps: `encode` per sample, `losses` on the whole batch.

    Shapes in docstrings: N samples, C channels, H and W pixels, T tokens, D features.

    Attributes:
        heads: the trained parts; each is a row of the plan.
        momentum_copies: networks that follow trained parts by momentum, `encoder` among them; empty where there are
            none.
        per_sample: whether the loss is a mean over samples that do not see each other, so that a batch can be split
            into parts that go all the way.
        selection_metric: of objectives with labels, the held-out number that chooses their best epoch.
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
        """Names of the encoder's rows that the losses do not depend on."""
        return []

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """Parameters whose true gradient is zero because a BatchNorm downstream cancels them.

        The computed gradient is rounding noise, which Adam would scale up to full-size steps that differ between
        machines; the trainer zeroes it.
        """
        return []

    def begin_stage(self, encoder: Encoder) -> None:
        """Make momentum copies; called once encoder and heads have the weights that the stage starts from."""

    @abstractmethod
    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        """Compute features of the views, sample by sample; changes no state.

        Args:
            encoder: the encoder that is trained.
            batch: views of shape (N, C, H, W).

        Returns:
            name -> tensor of shape (N, ...).
        """

    @abstractmethod
    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        """Run the heads and compute the loss of the whole batch.

        Args:
            features: what `encode` returned.
            progress: how far the stage is.

        Returns:
            (`loss` and its named parts, each a scalar; what `after_step` needs).
        """

    def before_step(self, encoder: Encoder, progress: Progress) -> dict[str, float]:
        """Update momentum copies; called once before each optimizer step. Returns numbers for the metrics."""
        return {}

    def evaluate_holdout(self, encoder: Encoder, source: Source) -> dict[str, float]:
        """Compute numbers on held-out images for the metrics, `selection_metric` among them.

        The epoch where that is highest is the best.
        """
        return {}

    def measure(self, encoder: Encoder, source: Source) -> dict[str, float]:
        """Measure on labelled images what predicts labels: metric -> percent.

        It chooses nothing, so test images may be given.
        """
        return {}

    def after_step(self, pending: Pending) -> None:
        """Apply what `losses` left pending (BatchNorm's buffers, queues); called only if the step was accepted."""
        apply_pending(self, pending)
