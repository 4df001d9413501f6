"""Several views through one encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layergraft.models.vit import Encoder


def encode_views(encoder: Encoder, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The feature of each view.

    Args:
        encoder: views of one size go through it as one batch, unless it has BatchNorm, whose statistics are a view's.
        views: name -> images of shape (N, C, H, W).

    Returns:
        Name -> features of shape (N, D).
    """
    if not encoder.per_sample:
        return {name: encoder(images) for name, images in views.items()}
    features = encoder(torch.cat(list(views.values()))).chunk(len(views))
    return dict(zip(views, features, strict=True))
