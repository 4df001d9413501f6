"""Weights with the names of foreign files, and what timm makes of them."""

from __future__ import annotations

import json
from typing import Any

import timm
import torch
from conftest import FIXTURES
from torch import Tensor

Weights = dict[str, Tensor]
NAMES = json.loads((FIXTURES / "formats.json").read_text())


def random_weights(shapes: dict[str, list[int]], seed: int = 0) -> Weights:
    """Weights of the size of trained ones: norms near 1, all else small, nothing zero."""
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 0.05
        changed[name] = value + 1 if "norm" in name and name.endswith("weight") else value
    return changed


def images(size: int = 224) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))


def timm_features(weights: Weights, size: int = 224, **arguments: Any) -> Tensor:
    """What timm's ViT-S with two blocks and 6 heads gives with weights that must fit it exactly."""
    settings = {"depth": 2, "num_heads": 6, "num_classes": 0, "img_size": size} | arguments
    vit = timm.create_model("vit_small_patch16_224", **settings).eval()
    vit.load_state_dict(weights)
    with torch.no_grad():
        features: Tensor = vit(images(size))
    return features


def below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def with_prefix(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: value for name, value in weights.items()}
