"""Projector and predictor of MoCo v3 (Chen et al., section 4.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layergraft.models.batchnorm import BatchNorm


def mlp_head(in_features: int, widths: Sequence[int]) -> nn.Sequential:
    """Bias-free linears, each but the last followed by BatchNorm and ReLU; the last by a BatchNorm without affine.

    Args:
        in_features: width of the input.
        widths: width of each layer.
    """
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        layers.append(nn.Linear(in_features, width, bias=False))
        last = index == len(widths) - 1
        layers += [BatchNorm(width, affine=False)] if last else [BatchNorm(width), nn.ReLU(inplace=True)]
        in_features = width
    return nn.Sequential(*layers)
