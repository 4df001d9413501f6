"""Several views through one encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from layergraft.encoders.vit import Encoder


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


def encode_views(encoder: Encoder, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the feature of each view, images (N, C, H, W) -> features (N, D), by its name."""
    features: dict[str, Tensor] = {}
    for names, images in batches(encoder, views):
        features |= zip(names, encoder(images).chunk(len(names)), strict=True)
    return features
