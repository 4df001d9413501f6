"""Several views through one encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from layergraft.data.batch import Batch
from layergraft.encoders.vit import Encoder

VIEWS = ("first", "second")  # of what contrasts two views


def batches(encoder: Encoder, views: Mapping[str, Tensor]) -> Iterator[tuple[list[str], Tensor]]:
    """Group views that go through an encoder together: all of one size, or each alone if BatchNorm sees it.

    Args:
        encoder: where they go through.
        views: name -> images of shape (N, C, H, W).

    Yields:
        (names, their images one after another).
    """
    groups: dict[object, list[str]] = {}
    for name, images in views.items():
        groups.setdefault(images.shape if encoder.per_sample else name, []).append(name)
    for names in groups.values():
        yield names, torch.cat([views[name] for name in names])


def kept_patches(encoder: Encoder, batch: Batch, names: Sequence[str], keep_ratio: float) -> Tensor | None:
    """Draw the patches that are seen in views of one size, for each image and view.

    Args:
        encoder: tells the size of a patch.
        batch: the samples; in a first part of a stage its own `keep_ratio` counts.
        names: of the views.
        keep_ratio: the part that is seen.

    Returns:
        Indices of shape (views * N, K), one view after another; None where all patches are seen.
    """
    ratio = keep_ratio if batch.keep_ratio is None else batch.keep_ratio
    if ratio >= 1:
        return None
    images = batch.views[names[0]]
    patches = (images.shape[2] // encoder.patch_size) * (images.shape[3] // encoder.patch_size)
    noise = torch.cat([batch.uniform(f"patches {name}", patches, images.device) for name in names])
    return noise.argsort(dim=1, stable=True)[:, : max(1, round(patches * ratio))]


def encode_views(encoder: Encoder, batch: Batch, views: Sequence[str], keep_ratio: float) -> dict[str, Tensor]:
    """Compute the feature (N, D) of each of a batch's views, of which the encoder sees a part of the patches."""
    features: dict[str, Tensor] = {}
    for names, images in batches(encoder, {view: batch.views[view] for view in views}):
        keep = kept_patches(encoder, batch, names, keep_ratio)
        features |= zip(names, encoder(images, keep).chunk(len(names)), strict=True)
    return features


def encode_whole(encoder: Encoder, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the feature of each view with all of its patches, images (N, C, H, W) -> features (N, D)."""
    features: dict[str, Tensor] = {}
    for names, images in batches(encoder, views):
        features |= zip(names, encoder(images).chunk(len(names)), strict=True)
    return features
