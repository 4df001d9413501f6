"""Nearest neighbours as positives (Dwibedi et al., ICCV 2021), on several blocks (Alkin et al., ICLR 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layergraft.config.objectives import NnclrConfig
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending, collect_pending
from layergraft.encoders.distributed import gather
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.heads import mlp_head
from layergraft.objectives.losses import at_least_float32, info_nce_loss
from layergraft.objectives.queue import Queue
from layergraft.objectives.views import batches

GLOBAL = ("first", "second")


class NeighbourHead(nn.Module):
    """Projector, predictor and memory of one block.

    Args:
        in_features: width of the block's feature.
        config: widths and size of the queue.
    """

    def __init__(self, in_features: int, config: NnclrConfig) -> None:
        super().__init__()
        self.projector = mlp_head(in_features, config.projector)
        self.predictor = mlp_head(config.projector[-1], config.predictor)
        self.queue = Queue(config.queue, config.projector[-1])


class Nnclr(Objective):
    """InfoNCE whose positive is the nearest neighbour of the other view, with a head on each of several blocks.

    The feature of a block is its class token after the encoder's final norm.

    Args:
        config: blocks, heads, queue, views.
        encoder: the encoder that it trains.

    Raises:
        UserError: a block does not exist.
    """

    def __init__(self, config: NnclrConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.blocks = (encoder.depth - 1,) if config.blocks is None else tuple(sorted(set(config.blocks)))
        if not self.blocks or self.blocks[0] < 0 or self.blocks[-1] >= encoder.depth:
            raise UserError(
                f"nnclr has heads on blocks {list(self.blocks)}, but the encoder's are 0 to {encoder.depth - 1}."
            )
        self.local = [f"local{index}" for index in range(config.local_views)]
        heads = {str(block): NeighbourHead(encoder.embed_dim, config) for block in self.blocks}
        self.heads["nnclr"] = nn.ModuleDict(heads)

    def unused_layers(self, encoder: Encoder) -> list[str]:
        return [f"blocks.{index}" for index in range(self.blocks[-1] + 1, encoder.depth)]

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """A shift of all features: every projector's first BatchNorm takes it away."""
        return encoder.final_bias

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        views = {name: batch.views[name] for name in (*GLOBAL, *self.local)}
        device = views["first"].device
        features: Features = {"ids": torch.from_numpy(batch.keys).to(device)}
        features["draws"] = batch.uniform("neighbour", len(self.blocks) * len(GLOBAL), device)
        for names, images in batches(encoder, views):
            _, outputs = encoder.run_blocks(
                encoder.tokens(images), 0, self.blocks[-1] + 1, self.blocks, encoder.rotation(images)
            )
            for block, tokens in outputs.items():
                feature = encoder.feature(encoder.norm(tokens))
                features |= {
                    f"{name}.{block}": part for name, part in zip(names, feature.chunk(len(names)), strict=True)
                }
        return features

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        """Every head's loss is the mean over its pairs of views; theirs is the mean over heads."""
        ids, _ = gather(features["ids"])
        pending: Pending = {}
        losses: Losses = {}
        for index, block in enumerate(self.blocks):
            draws = features["draws"][:, len(GLOBAL) * index : len(GLOBAL) * (index + 1)]
            losses[f"block{block}"], newest = self.head_loss(block, features, draws)
            pending[f"queue.{block}"] = newest
        losses["loss"] = torch.stack(list(losses.values())).mean()
        return losses, collect_pending(self) | pending | {"queue.ids": ids}

    def head(self, block: int) -> NeighbourHead:
        """The head on a block."""
        heads = self.heads["nnclr"]
        assert isinstance(heads, nn.ModuleDict)
        head = heads[str(block)]
        assert isinstance(head, NeighbourHead)
        return head

    def head_loss(self, block: int, features: Features, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of one head.

        Args:
            block: which block the head is on.
            features: what `encode` returned.
            draws: uniform numbers that choose neighbours, of shape (N, 2).

        Returns:
            (loss, projections of all processes' first views, of shape (M, D), for the queue).
        """
        head, config = self.head(block), self.config
        projected = {view: head.projector(features[f"{view}.{block}"]) for view in (*GLOBAL, *self.local)}
        predicted = {view: at_least_float32(head.predictor(x)) for view, x in projected.items()}
        excluded = features["ids"] if config.exclude_same else None
        terms = []
        for number, target in enumerate(GLOBAL):
            key = at_least_float32(projected[target].detach())
            neighbour = head.queue.neighbours(key, draws[:, number], config.topk, excluded)
            keys, offset = gather(neighbour if config.swap == "all" else key)
            terms += [
                info_nce_loss(query, keys, config.temperature, offset, neighbour)
                for view, query in predicted.items()
                if view != target
            ]
        return torch.stack(terms).mean(), gather(at_least_float32(projected["first"].detach()))[0]

    def after_step(self, pending: Pending) -> None:
        """Update BatchNorm's buffers and the queues."""
        for block in self.blocks:
            self.head(block).queue.push(pending[f"queue.{block}"], pending["queue.ids"])
        super().after_step({name: value for name, value in pending.items() if not name.startswith("queue.")})
