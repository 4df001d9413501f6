"""Projectors, predictors and expanders: small multi-layer perceptrons on a feature."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layergraft.models.batchnorm import BatchNorm


def mlp_head(in_features: int, widths: Sequence[int], *, last_norm: bool = True) -> nn.Sequential:
    """Bias-free linears, each but the last followed by BatchNorm and ReLU (Chen et al., ICCV 2021, section 4.1).

    Args:
        in_features: width of the input.
        widths: width of each layer.
        last_norm: whether the last is followed by a BatchNorm without affine.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(in_features, width, bias=False), BatchNorm(width), nn.ReLU(inplace=True)]
        in_features = width
    layers.append(nn.Linear(in_features, widths[-1], bias=False))
    return nn.Sequential(*layers, *([BatchNorm(widths[-1], affine=False)] if last_norm else []))
