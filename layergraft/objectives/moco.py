"""MoCo v3 (Chen et al., ICCV 2021): two views, keys of a momentum encoder, no queue."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from layergraft.config.objectives import GateConfig, MocoConfig
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending, collect_pending
from layergraft.encoders.distributed import gather
from layergraft.encoders.momentum import momentum_update
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.heads import Mixture, mlp_head
from layergraft.objectives.losses import at_least_float32, moco_v3_loss
from layergraft.objectives.views import VIEWS, batches, encode_whole, kept_patches


class Moco(Objective):
    """MoCo v3: InfoNCE of each view's queries against the momentum encoder's keys of the other view (algorithm 1).

    Local views, where there are any, are queries against the keys of both (multi-crop; Caron et al., NeurIPS 2020).

    Args:
        config: temperature, momentum, heads.
        encoder: the encoder that it trains.
    """

    def __init__(self, config: MocoConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.local = [f"local{index}" for index in range(config.local_views)]
        self.heads["projector"] = mlp_head(encoder.embed_dim, config.projector)
        width, gate = config.projector[-1], config.gate
        self.heads["predictor"] = (
            mlp_head(width, config.predictor) if gate is None else Mixture(width, config.predictor, gate.experts)
        )

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """The final norm's bias: it shifts all features alike, which the projector's first BatchNorm cancels."""
        return encoder.final_bias

    def begin_stage(self, encoder: Encoder) -> None:
        self.momentum_copies["encoder"] = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum_copies["projector"] = copy.deepcopy(self.heads["projector"]).requires_grad_(False)

    def momentum(self, progress: Progress) -> float:
        """Raise the configured momentum to 1 along a cosine."""
        return 1 - 0.5 * (1 + math.cos(math.pi * progress.fraction)) * (1 - self.config.momentum)

    def before_step(self, encoder: Encoder, progress: Progress) -> dict[str, float]:
        momentum = self.momentum(progress)
        momentum_update(self.momentum_copies["encoder"], encoder, momentum)
        momentum_update(self.momentum_copies["projector"], self.heads["projector"], momentum)
        gate = {} if self.config.gate is None else {"gate_temperature": gate_temperature(self.config.gate, progress)}
        return {"momentum": momentum} | gate

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        queries: Features = {}
        keys: Features = {}
        for names, images in batches(encoder, {view: batch.views[view] for view in VIEWS}):
            query, key = self.queries_and_keys(encoder, images, self.kept_patches(encoder, batch, names))
            queries |= zip(names, query.chunk(len(names)), strict=True)
            keys |= zip((f"{name}_momentum" for name in names), key.chunk(len(names)), strict=True)
        return queries | encode_whole(encoder, {view: batch.views[view] for view in self.local}) | keys

    def queries_and_keys(self, encoder: Encoder, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features of both encoders; the lowest frozen blocks, equal in both, run once.

        Args:
            encoder: the online encoder.
            images: views of one size, of shape (N, C, H, W).
            keep: indices of the patches that are seen, of shape (N, K); None for all.

        Returns:
            (features of the online encoder, of the momentum encoder), each of shape (N, D).
        """
        momentum_encoder = self.momentum_copies["encoder"]
        assert isinstance(momentum_encoder, Encoder)
        # A momentum encoder that sees other patches has no blocks to share.
        full_view = self.config.full_view_teacher
        shared = None if full_view else frozen_blocks(encoder)
        if shared is None:
            query = encoder(images, keep)
            with torch.no_grad():
                key = momentum_encoder(images, None if full_view else keep)
        else:
            turns = encoder.rotation(images, keep)
            with torch.no_grad():
                trunk, _ = encoder.run_blocks(encoder.tokens(images, keep), 0, shared, rotation=turns)
                key = momentum_encoder.features_from(trunk, shared, turns)
            query = encoder.features_from(trunk, shared, turns)
        return query, key

    def kept_patches(self, encoder: Encoder, batch: Batch, names: Sequence[str]) -> Tensor | None:
        """The patches that both encoders see in views of one size; see `objectives.views.kept_patches`."""
        return kept_patches(encoder, batch, names, self.config.keep_ratio)

    def predict(self, projected: Tensor, progress: Progress) -> Tensor:
        """Predict keys (N, D) from projections (N, D)."""
        predictor = self.heads["predictor"]
        if self.config.gate is not None:
            return cast(Tensor, predictor(projected, gate_temperature(self.config.gate, progress)))
        return cast(Tensor, predictor(projected))

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        projector = self.heads["projector"]
        queries = [self.predict(projector(features[view]), progress) for view in (*VIEWS, *self.local)]
        with torch.no_grad():
            keys = [self.momentum_copies["projector"](features[f"{view}_momentum"]) for view in VIEWS]
        gathered = [gather(at_least_float32(key)) for key in keys]
        losses = []
        for query, (every_key, offset) in zip(queries[: len(VIEWS)], reversed(gathered), strict=True):
            losses.append(moco_v3_loss(at_least_float32(query), every_key, self.config.temperature, offset))
        parts = {"loss": losses[0] + losses[1]}
        if self.local:
            for query in queries[len(VIEWS) :]:
                for every_key, offset in gathered:
                    losses.append(moco_v3_loss(at_least_float32(query), every_key, self.config.temperature, offset))
            # On the scale of the two views alone, so that learning rates stay what they are.
            parts = {"loss": len(VIEWS) * torch.stack(losses).mean(), "loss_global": parts["loss"].detach()}
            parts["loss_local"] = len(VIEWS) * torch.stack(losses[len(VIEWS) :]).mean().detach()
        return parts, collect_pending(self)


def gate_temperature(gate: GateConfig, progress: Progress) -> float:
    """Lower the gate's temperature linearly, then leave it."""
    first, last = gate.temperature
    return first + (last - first) * min(1.0, progress.fraction / gate.cooling)


def frozen_blocks(encoder: Encoder) -> int | None:
    """Count the lowest blocks that are frozen together with everything below them.

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
