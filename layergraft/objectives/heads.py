"""Projectors, predictors and expanders: small multi-layer perceptrons on a feature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layergraft.encoders.batchnorm import BatchNorm


def mlp_head(in_features: int, widths: Sequence[int], *, last_norm: bool = True) -> nn.Sequential:
    """Build an MLP of bias-free linears with BatchNorm and ReLU between (MoCo v3: Chen et al., ICCV 2021, section 4.1).

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


class Mixture(nn.Module):
    """Several heads of one shape, weighted for each sample by the softmax of a linear gate.

    Args:
        in_features: width of the input.
        widths: width of each layer of a head.
        experts: how many heads.
    """

    def __init__(self, in_features: int, widths: Sequence[int], experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(in_features, experts)
        self.experts = nn.ModuleList(mlp_head(in_features, widths) for _ in range(experts))

    def forward(self, x: Tensor, temperature: float) -> Tensor:
        """Mix the heads' outputs: (N, in_features) -> (N, widths[-1]).

        The higher the temperature, the more equal the weights.
        """
        weights = (self.gate(x) / temperature).softmax(dim=1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.einsum("ne,ned->nd", weights, outputs)
