"""MoCo v3 (Chen et al., ICCV 2021): two views, keys of a momentum encoder, no queue."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from layergraft.config.objectives import GateConfig, MocoConfig
from layergraft.data.batch import Batch
from layergraft.models.batchnorm import Pending, collect_pending
from layergraft.models.heads import Mixture, mlp_head
from layergraft.models.momentum import momentum_update
from layergraft.models.vit import Encoder
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.gather import gather
from layergraft.objectives.losses import contrastive_loss, widen


class Moco(Objective):
    """Args:
    config: temperature, momentum, heads.
    encoder: what it will train.
    """

    def __init__(self, config: MocoConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.heads["projector"] = mlp_head(encoder.embed_dim, config.projector)
        width, gate = config.projector[-1], config.gate
        self.heads["predictor"] = (
            mlp_head(width, config.predictor) if gate is None else Mixture(width, config.predictor, gate.experts)
        )

    def still(self, encoder: Encoder) -> list[nn.Parameter]:
        """A shift of all features: the projector's first BatchNorm takes it away."""
        return encoder.shift

    def start(self, encoder: Encoder) -> None:
        self.slow["encoder"] = copy.deepcopy(encoder).requires_grad_(False)
        self.slow["projector"] = copy.deepcopy(self.heads["projector"]).requires_grad_(False)

    def momentum(self, progress: Progress) -> float:
        """Rises from the configured momentum to 1 along a cosine."""
        return 1 - 0.5 * (1 + math.cos(math.pi * progress.fraction)) * (1 - self.config.momentum)

    def before_step(self, encoder: Encoder, progress: Progress) -> dict[str, float]:
        momentum = self.momentum(progress)
        momentum_update(self.slow["encoder"], encoder, momentum)
        momentum_update(self.slow["projector"], self.heads["projector"], momentum)
        gate = {} if self.config.gate is None else {"gate_temperature": gate_temperature(self.config.gate, progress)}
        return {"momentum": momentum} | gate

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        """Both views go through each encoder as one batch, or one by one where BatchNorm takes a view's statistics."""
        views = [batch.views["first"], batch.views["second"]]
        keep = self.kept_patches(encoder, batch, views[0].device)
        if encoder.per_sample:
            query, key = self.queries_and_keys(encoder, torch.cat(views), keep)
            queries, keys = query.chunk(2), key.chunk(2)
        else:
            kept = (None, None) if keep is None else keep.chunk(2)
            pairs = [self.queries_and_keys(encoder, *pair) for pair in zip(views, kept, strict=True)]
            queries, keys = zip(*pairs, strict=True)
        return {"first": queries[0], "second": queries[1], "first_slow": keys[0], "second_slow": keys[1]}

    def queries_and_keys(self, encoder: Encoder, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features of both encoders; the lowest frozen blocks, equal in both, run once."""
        slow = self.slow["encoder"]
        assert isinstance(slow, Encoder)
        # A teacher that sees other patches has no trunk to share.
        shared, seen = (None, None) if self.config.full_view_teacher else (frozen_blocks(encoder), keep)
        if shared is None:
            query = encoder.finish(encoder.tokens(images, keep))
            with torch.no_grad():
                key = slow.finish(slow.tokens(images, seen))
        else:
            with torch.no_grad():
                trunk, _ = encoder.run_blocks(encoder.tokens(images, keep), 0, shared)
                key = slow.finish(trunk, shared)
            query = encoder.finish(trunk, shared)
        return query, key

    def kept_patches(self, encoder: Encoder, batch: Batch, device: torch.device) -> Tensor | None:
        """Indices of the patches that are seen, of shape (2N, K), first view first; None where all are."""
        if self.config.keep_ratio >= 1:
            return None
        count = max(1, round(encoder.num_patches * self.config.keep_ratio))
        noise = [batch.uniform(f"patches {view}", encoder.num_patches, device) for view in ("first", "second")]
        return torch.cat(noise).argsort(dim=1, stable=True)[:, :count]

    def predict(self, projected: Tensor, progress: Progress) -> Tensor:
        """Projections (N, D) -> predictions of the keys (N, D)."""
        predictor = self.heads["predictor"]
        if self.config.gate is not None:
            return cast(Tensor, predictor(projected, gate_temperature(self.config.gate, progress)))
        return cast(Tensor, predictor(projected))

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        projector = self.heads["projector"]
        queries = [self.predict(projector(features[view]), progress) for view in ("first", "second")]
        with torch.no_grad():
            keys = [self.slow["projector"](features[f"{view}_slow"]) for view in ("first", "second")]
        gathered = [gather(widen(key)) for key in keys]
        temperature = self.config.temperature
        parts = [
            contrastive_loss(widen(query), *(key, temperature, offset))
            for query, (key, offset) in zip(queries, reversed(gathered), strict=True)
        ]
        return {"loss": parts[0] + parts[1]}, collect_pending(self)


def gate_temperature(gate: GateConfig, progress: Progress) -> float:
    """Falls linearly, then stays."""
    first, last = gate.temperature
    return first + (last - first) * min(1.0, progress.fraction / gate.cooling)


def frozen_blocks(encoder: Encoder) -> int | None:
    """How many of the lowest blocks are frozen with everything below them.

    None where something below is trained, or has BatchNorm buffers that each encoder keeps for itself.
    """
    if not encoder.per_sample:
        return None
    rows = encoder.layers()
    frozen = [not any(p.requires_grad for p in parameters) for parameters in rows.values()]
    names = list(rows)
    below = names.index("blocks.0")
    if not all(frozen[:below]):
        return None
    count = 0
    while count < encoder.depth and frozen[below + count]:
        count += 1
    return count
