"""Do the patches of an image grow alike? Mean cosine of its tokens, by layer (over-smoothing)."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer
from layergraft.analysis.subject import NotApplicable, Subject, inputs, layer_names, layer_tokens, patch_tokens
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES = 512


def token_cosine(tokens: Tensor) -> Tensor:
    """Mean cosine over pairs of different tokens of an image: (N, P, D) -> (N,)."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=2)
    count = tokens.shape[1]
    return (unit.sum(1).square().sum(1) - count) / (count * (count - 1))


@torch.inference_mode()
def token_similarity(subject: Subject) -> Findings:
    """Within an image, and between tokens of different images at the same place, for comparison."""
    data: ChartRows = []
    for name, encoder in subject.encoders.items():
        if encoder.num_patches < 2:
            raise NotApplicable("an image is a single patch")
        parts: list[list[Tensor]] = [[] for _ in range(encoder.depth + 1)]
        for images in inputs(encoder, subject.sample(IMAGES)):
            for of_layer, tokens in zip(parts, layer_tokens(encoder, images), strict=True):
                of_layer.append(token_cosine(patch_tokens(encoder, tokens)).cpu())
        data += [
            {"encoder": name, "layer": layer, "cosine": float(torch.cat(of_layer).mean())}
            for layer, of_layer in zip(layer_names(encoder), parts, strict=True)
        ]
    figure = by_layer(
        "token-similarity",
        "Do patches grow alike?",
        "Mean cosine between the patch tokens of an image. 1: all patches carry the same.",
        data,
        "cosine",
        zero=True,
    )
    return Findings(numbers={"layers": data}, figures=[figure], compares=True)
