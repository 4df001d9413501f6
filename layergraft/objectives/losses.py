"""Losses as pure functions of tensors, and the precision they are computed in.

Shapes: N samples of this process, M samples of all processes, D features, L patches, P numbers of a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

P = ParamSpec("P")


def at_least_float32(value: Tensor) -> Tensor:
    """Cast fp16 and bf16 to fp32; leave wider types unchanged."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def without_autocast(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a loss compute in the precision of its arguments: in bf16 a cosine over T = 0.2 is wrong by percents."""

    @wraps(loss)
    def precise(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return precise


def masked_pixel_loss(prediction: Tensor, target: Tensor, mask: Tensor, *, norm_pix: bool = True) -> Tensor:
    """Mean squared error over removed patches (MAE: He et al., CVPR 2022, section 3).

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


@without_autocast
def info_nce_loss(
    queries: Tensor, keys: Tensor, temperature: float, offset: int = 0, positives: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each query against all keys, by cosine (InfoNCE: van den Oord et al., 2018, equation 4).

    Args:
        queries: of shape (N, D), not normalised.
        keys: of shape (M, D), not normalised; the positive of query n is key n + offset.
        temperature: T.
        offset: where this process's keys start among the gathered ones.
        positives: what takes the place of each query's positive, of shape (N, D); None leaves it.
    """
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    logits = queries @ keys.T
    labels = torch.arange(len(queries), device=queries.device) + offset
    if positives is not None:
        similarity = (queries * F.normalize(positives, dim=1)).sum(dim=1)
        logits = logits.scatter(1, labels[:, None], similarity[:, None])
    return F.cross_entropy(logits / temperature, labels)


def moco_v3_loss(queries: Tensor, keys: Tensor, temperature: float, offset: int = 0) -> Tensor:
    """MoCo v3's contrastive loss: InfoNCE times 2T (Chen et al., ICCV 2021, algorithm 1).

    Args:
        queries: of shape (N, D), not normalised.
        keys: of shape (M, D), not normalised; the positive of query n is key n + offset.
        temperature: T.
        offset: where this process's keys start among the gathered ones.
    """
    return 2 * temperature * info_nce_loss(queries, keys, temperature, offset)


@without_autocast
def nt_xent_loss(
    first: Tensor, second: Tensor, every_first: Tensor, every_second: Tensor, temperature: float, offset: int = 0
) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR: Chen et al., ICML 2020, equation 1).

    Each view is to be told from all others of the batch, of both kinds, but itself; the positive is its sample's other.

    Args:
        first: this process's first views, of shape (N, D), not normalised.
        second: its second views, likewise.
        every_first: first views of all processes, of shape (M, D).
        every_second: second views of all processes, likewise.
        temperature: T.
        offset: where this process's views start among all.
    """
    queries = F.normalize(torch.cat([first, second]), dim=1)
    logits = queries @ F.normalize(torch.cat([every_first, every_second]), dim=1).T / temperature
    # Column m of the 2M is sample m's first view, column M + m its second.
    m = len(every_first)
    sample = torch.arange(len(first), device=first.device) + offset
    itself, positive = torch.cat([sample, m + sample]), torch.cat([m + sample, sample])
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(logits, positive)


def invariance_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of two views (VICReg: Bardes et al., ICLR 2022, equation 5, but over D).

    Args:
        first: embeddings of the first views, of shape (N, D).
        second: of the second views, likewise.
    """
    return F.mse_loss(first, second)


def variance_loss(x: Tensor, eps: float = 1e-4) -> Tensor:
    """How far the standard deviation of each dimension falls short of 1, on average (VICReg, equation 1).

    Args:
        x: embeddings of one view, of shape (N, D).
        eps: added to the variance.
    """
    return F.relu(1 - (x.var(dim=0) + eps).sqrt()).mean()


@without_autocast
def covariance_loss(x: Tensor) -> Tensor:
    """Squared covariances of different dimensions, summed, over D (VICReg, equation 4).

    The sum over all pairs is the squared Frobenius norm of X^T X, which is that of X X^T: the smaller one is computed.

    Args:
        x: embeddings of one view, of shape (N, D).
    """
    count, width = x.shape
    centred = x - x.mean(dim=0)
    product = centred @ centred.T if count < width else centred.T @ centred
    diagonal = centred.square().sum(dim=0)
    return (product.square().sum() - diagonal.square().sum()) / ((count - 1) ** 2 * width)
