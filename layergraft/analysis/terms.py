"""The losses of mae, moco and simclr, image by image: functions that autograd can take apart.

A contrastive loss couples the images of a batch. The convention: keys and BatchNorm statistics of the batch are
computed once and held constant; what remains is a term of each image's own, in both directions. SimCLR has no keys:
there, all other images are held constant.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import BatchNorm
from layergraft.encoders.vit import Encoder
from layergraft.objectives.losses import masked_pixel_loss
from layergraft.objectives.mae import Mae
from layergraft.objectives.moco import Moco
from layergraft.objectives.simclr import Simclr
from layergraft.objectives.views import VIEWS, kept_patches

Statistics = list[tuple[Tensor, Tensor]]
SampleLoss = Callable[..., Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One loss of every image, as a function that autograd and vmap can take apart.

    Args:
        loss: `loss(encoder, *arguments of one image)`, a scalar.
        arguments: of all images, each tensor with the images in front.
    """

    loss: SampleLoss
    arguments: tuple[Tensor, ...]


def plain_attention(module: Module) -> Module:
    """A copy whose attention layers form the matrix: vmap cannot take fused attention apart on a CPU."""
    plain = copy.deepcopy(module)
    for part in plain.modules():
        if hasattr(part, "fused_attn"):
            setattr(part, "fused_attn", False)  # noqa: B010 - of timm's attention
    return plain.requires_grad_(False).eval()


def _all_blocks(encoder: Encoder, images: Tensor, keep: Tensor) -> Tensor:
    """Tokens (N, T, D) of the kept patches (N, K) behind the last block."""
    return encoder.run_blocks(encoder.tokens(images, keep), rotation=encoder.rotation(images, keep))[0]


def mim_terms(encoder: Encoder, objective: Mae, batch: Batch) -> Terms:
    """MAE's loss of each image: the mean over its own removed patches."""
    images = batch.views["image"]
    keep, removed = objective.split(batch.uniform("mask", encoder.num_patches, images.device))
    decoder, norm_pix = plain_attention(objective.heads["decoder"]), objective.config.norm_pix

    def loss(trained: Encoder, image: Tensor, kept: Tensor, hidden: Tensor) -> Tensor:
        tokens = trained.norm(_all_blocks(trained, image[None], kept[None]))
        prediction = decoder(tokens, kept[None], hidden[None])
        target = trained.patchify(image[None])
        target = target.gather(1, hidden[None, :, None].expand(-1, -1, target.shape[2]))
        everywhere = torch.ones_like(hidden[None], dtype=target.dtype)
        return masked_pixel_loss(prediction, target, everywhere, norm_pix=norm_pix)

    return Terms(loss=loss, arguments=(images, keep, removed))


def batch_statistics(head: nn.Module, features: Tensor) -> tuple[Tensor, Statistics]:
    """(output, mean and biased variance at each BatchNorm) of a head over a batch."""
    statistics: Statistics = []
    for module in head.children():
        if isinstance(module, BatchNorm):
            statistics.append((features.mean(0), features.var(0, unbiased=False)))
        features = _apply(module, features, statistics[-1:])
    return features, statistics


def with_statistics(head: nn.Module, features: Tensor, statistics: Statistics) -> Tensor:
    """A head whose BatchNorms use given statistics: each row by itself."""
    remaining = iter(statistics)
    for module in head.children():
        features = _apply(module, features, [next(remaining)] if isinstance(module, BatchNorm) else [])
    return features


def _apply(module: nn.Module, x: Tensor, statistics: Statistics) -> Tensor:
    if isinstance(module, BatchNorm):
        mean, var = statistics[0]
        x = (x - mean) * torch.rsqrt(var + module.eps)
        return x if module.weight is None or module.bias is None else x * module.weight + module.bias
    if isinstance(module, nn.ReLU):
        return x.relu()  # the module itself works in place, which vmap cannot take apart
    applied: Tensor = module(x)
    return applied


def _views_and_kept(encoder: Encoder, batch: Batch, keep_ratio: float) -> tuple[Tensor, Tensor]:
    """(both views of every image, of shape (N, 2, C, H, W); the patches seen in them, of shape (N, 2, K))."""
    views = torch.stack([batch.views[view] for view in VIEWS], dim=1)
    kept = kept_patches(encoder, batch, VIEWS, keep_ratio)
    every = torch.arange(encoder.num_patches, device=views.device).expand(2 * len(views), -1)
    return views, torch.stack((every if kept is None else kept).chunk(2), dim=1)


def _features(encoder: Encoder, images: Tensor, keep: Tensor) -> Tensor:
    """Features (N, D) of images of which the patches `keep` are seen.

    Not `Objective.encode`: it takes blocks that stand still for equal in both encoders.
    """
    return encoder.feature(encoder.norm(_all_blocks(encoder, images, keep)))


@torch.no_grad()
def moco_terms(encoder: Encoder, objective: Moco, batch: Batch) -> Terms:
    """MoCo v3's loss of each image: its two queries against the batch's keys."""
    slow = objective.momentum_copies["encoder"]
    assert isinstance(slow, Encoder)
    projector, predictor = objective.heads["projector"], objective.heads["predictor"]
    views, keep = _views_and_kept(encoder, batch, objective.config.keep_ratio)
    statistics: list[tuple[Statistics, Statistics]] = []
    keys: list[Tensor] = []
    for view in (0, 1):
        query, key = (_features(network, views[:, view], keep[:, view]) for network in (encoder, slow))
        projected, below = batch_statistics(projector, query)
        statistics.append((below, batch_statistics(predictor, projected)[1]))
        keys.append(nn.functional.normalize(batch_statistics(objective.momentum_copies["projector"], key)[0], dim=1))
    keys.reverse()  # the queries of one view meet the keys of the other
    temperature = objective.config.temperature

    def loss(trained: Encoder, images: Tensor, patches: Tensor, index: Tensor) -> Tensor:
        features = _features(trained, images, patches)
        total = features.new_zeros(())
        for view, (below, above) in enumerate(statistics):
            query = with_statistics(projector, features[view : view + 1], below)
            query = nn.functional.normalize(with_statistics(predictor, query, above), dim=1)
            logits = query @ keys[view].T / temperature
            positive = logits.gather(1, index.reshape(1, 1)).squeeze()
            total = total + 2 * temperature * (logits.logsumexp(1).squeeze() - positive)
        return total

    return Terms(loss=loss, arguments=(views, keep, torch.arange(len(views), device=views.device)))


@torch.no_grad()
def simclr_terms(encoder: Encoder, objective: Simclr, batch: Batch) -> Terms:
    """SimCLR's loss of each image, and what the image changes in those of the others, which are held constant.

    The others' losses count, as no momentum encoder keeps an image out of them: so the images' gradients add up to the
    batch's. They are counted from what they are, so that the terms add up to the batch's loss, too.
    """
    projector = objective.heads["projector"]
    views, keep = _views_and_kept(encoder, batch, objective.config.keep_ratio)
    count = len(views)
    statistics: list[Statistics] = []
    projections: list[Tensor] = []
    for view in (0, 1):
        projected, of_view = batch_statistics(projector, _features(encoder, views[:, view], keep[:, view]))
        statistics.append(of_view)
        projections.append(nn.functional.normalize(projected, dim=1))
    keys = torch.cat(projections)  # row n is image n's first view, row N + n its second
    temperature = objective.config.temperature
    logits = (keys @ keys.T / temperature).fill_diagonal_(-torch.inf)
    index = torch.arange(count, device=views.device)
    pairs = torch.stack((index, index + count), dim=1)
    # What each view is told from, in each image's absence.
    without = torch.stack([logits.index_fill(1, pair, -torch.inf).logsumexp(1) for pair in pairs])

    def loss(trained: Encoder, images: Tensor, patches: Tensor, pair: Tensor, without: Tensor) -> Tensor:
        features = _features(trained, images, patches)
        heads = [with_statistics(projector, features[v : v + 1], of_view) for v, of_view in enumerate(statistics)]
        first, second = (nn.functional.normalize(head, dim=1) for head in heads)
        positive = (first * second).sum() / temperature
        to_others = torch.cat((first, second)) @ keys.T / temperature
        from_others = torch.logaddexp(torch.logaddexp(to_others[0], to_others[1]), without)
        change = (from_others - logits.logsumexp(1)).scatter(0, pair, 0.0).sum()
        rivals = torch.logaddexp(to_others.index_fill(1, pair, -torch.inf).logsumexp(1), positive)
        return ((rivals - positive).sum() + change) / 2

    return Terms(loss=loss, arguments=(views, keep, pairs, without))
