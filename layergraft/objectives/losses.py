"""Losses as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


def masked_pixel_loss(prediction: Tensor, target: Tensor, mask: Tensor, *, norm_pix: bool = True) -> Tensor:
    """Mean squared error over removed patches (He et al., section 3).

    Args:
        prediction: of shape (N, L, P).
        target: pixels of the patches, of shape (N, L, P).
        mask: 1 where a patch was removed, of shape (N, L).
        norm_pix: normalise each target patch by its own mean and unbiased variance.
    """
    if norm_pix:
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    per_patch = (prediction - target).square().mean(-1)
    return (per_patch * mask).sum() / mask.sum()


def contrastive_loss(queries: Tensor, keys: Tensor, temperature: float, offset: int = 0) -> Tensor:
    """2T * cross-entropy of queries against keys (Chen et al., algorithm 1).

    Args:
        queries: of shape (N, D), not normalised.
        keys: of shape (M, D), not normalised; the positive of query n is key n + offset.
        temperature: T.
        offset: where this process's keys start among the gathered ones.
    """
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    labels = torch.arange(len(queries), device=queries.device) + offset
    return F.cross_entropy(logits, labels) * (2 * temperature)
