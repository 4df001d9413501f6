"""Loss and gradient of a global batch, at once or in parts that fit the memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.objectives.base import Features, Losses, Objective, Progress

P = ParamSpec("P")
T = TypeVar("T")


class TrainStep(nn.Module):
    """Encoder and objective as one module whose `forward` is the only door to them.

    Wrappers (data parallel, sharding) act at `forward`, so every computation with parameters goes through it.

    Args:
        encoder: what is trained.
        objective: what it is trained for.
        autocast: gives the context of the precision.
    """

    def __init__(
        self, encoder: Encoder, objective: Objective, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        super().__init__()
        self.encoder, self.objective, self.autocast = encoder, objective, autocast

    def forward(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.autocast():
            return call(*args, **kwargs)

    def encode(self, batch: Batch) -> Features:
        return self.objective.encode(self.encoder, batch)

    def whole(self, batch: Batch, progress: Progress) -> tuple[Losses, Pending]:
        return self.objective.losses(self.encode(batch), progress)


def check_micro_batch(micro_batch: int | None, encoder: Encoder) -> None:
    """Refuse to split the batch of an encoder whose BatchNorm would see the parts."""
    if micro_batch is not None and not encoder.per_sample:
        raise UserError(
            "engine.micro_batch needs an encoder whose samples do not see each other; this one has BatchNorm.",
            "Use an encoder without a convolutional stem, or set engine.micro_batch to null.",
        )


class Gradients:
    """Computes the loss of a batch and adds its gradient to the parameters'.

    Args:
        step: encoder and objective.
        model: `step`, or a wrapper around it.
        micro_batch: images that are encoded at once with a graph; None takes all of this process's part of the batch.

    Raises:
        UserError: the encoder's BatchNorm would see the parts instead of the batch.
    """

    def __init__(self, step: TrainStep, model: nn.Module, micro_batch: int | None) -> None:
        self.step, self.model, self.micro_batch = step, model, micro_batch
        check_micro_batch(micro_batch, step.encoder)

    def __call__(self, batch: Batch, progress: Progress, scale: float = 1.0) -> tuple[Losses, Pending]:
        """Compute the losses of a batch and add the gradient to the parameters'.

        Args:
            batch: this process's part of the global batch.
            progress: where the stage stands.
            scale: factor of the gradient (not of the losses that are returned).
        """
        size = self.micro_batch or len(batch.keys)
        parts = [batch.part(start, start + size) for start in range(0, len(batch.keys), size)]
        if len(parts) == 1:
            losses, pending = self.model(self.step.whole, batch, progress)
            _backward(losses["loss"] * scale)
            return losses, pending
        ddp = isinstance(self.model, DistributedDataParallel)
        # A data-parallel wrapper expects one backward a step; here are several, and one exchange after them.
        with self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext():
            run = self._per_sample if self.step.objective.per_sample else self._cached
            losses, pending = run(parts, progress, scale)
        if ddp:
            self._average()
        return losses, pending

    def _per_sample(self, parts: list[Batch], progress: Progress, scale: float) -> tuple[Losses, Pending]:
        """A loss that is a mean over samples needs no other sample: each part goes all the way."""
        total = sum(len(part.keys) for part in parts)
        sums: Losses = {}
        pending: Pending = {}
        for part in parts:
            losses, pending = self.model(self.step.whole, part, progress)
            weight = len(part.keys) / total
            _backward(losses["loss"] * (weight * scale))
            sums = {name: sums.get(name, 0.0) + value.detach() * weight for name, value in losses.items()}
        return sums, pending

    def _cached(self, parts: list[Batch], progress: Progress, scale: float) -> tuple[Losses, Pending]:
        """Gradient caching (Gao et al., RepL4NLP 2021): exact for losses and heads that see the whole batch.

        Encode all parts without a graph, take the loss of the whole batch and its gradient at the features, then encode
        each part again and send its share of that gradient through. The last part keeps its graph from the start, which
        saves one pass and tells which features carry a gradient.
        """
        with torch.no_grad():
            done: list[Features] = [self.model(self.step.encode, part) for part in parts[:-1]]
        last: Features = self.model(self.step.encode, parts[-1])
        leaves: Features = {}  # features of the whole batch
        for name, value in last.items():
            whole = torch.cat([features[name] for features in done] + [value.detach()])
            leaves[name] = whole.requires_grad_(value.requires_grad)
        losses, pending = self.model(self.step.objective.losses, leaves, progress)
        _backward(losses["loss"] * scale)
        sizes = [len(part.keys) for part in parts]
        gradients = {name: torch.split(leaf.grad, sizes) for name, leaf in leaves.items() if leaf.grad is not None}
        if gradients:
            for index in reversed(range(len(parts))):
                features = self.model(self.step.encode, parts[index]) if index < len(done) else last
                last = {}  # its graph goes with its backward
                shares = [gradient[index] for gradient in gradients.values()]
                torch.autograd.backward([features[name] for name in gradients], shares)
        return losses, pending

    def _average(self) -> None:
        gradients = [parameter.grad for parameter in self.step.parameters() if parameter.grad is not None]
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            assert work is not None
            work.wait()
        torch._foreach_div_(gradients, float(dist.get_world_size()))


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
