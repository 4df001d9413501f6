"""How far does each head look, and how widely?

Dosovitskiy et al., ICLR 2021, figure 7; Park et al., ICLR 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layergraft.analysis.attention import attention_maps, patch_attention
from layergraft.analysis.charts import LAYER_AXIS
from layergraft.analysis.subject import Subject, inputs
from layergraft.runs.figure import ChartRows, Figure, field, tooltip
from layergraft.runs.findings import Findings

IMAGES = 256


def patch_distances(grid: tuple[int, int], patch_size: int) -> Tensor:
    """Distance in pixels between the centres of every two patches, (patches, patches)."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    centres = torch.stack([rows.flatten(), columns.flatten()], dim=1) * patch_size
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(attention: Tensor, distances: Tensor) -> Tensor:
    """Distance to what is looked at, weighted by attention: (N, heads, P, P) -> (heads,)."""
    return (attention * distances).sum(-1).mean((0, 2))


def entropy(attention: Tensor) -> Tensor:
    """Mean entropy of the rows of attention in bits, log2 T where it is uniform: (N, heads, T, T) -> (heads,)."""
    bits: Tensor = torch.special.entr(attention).sum(-1).mean((0, 2)) / math.log(2)
    return bits


def _figure(name: str, title: str, caption: str, data: ChartRows, value: str, label: str) -> Figure:
    x = LAYER_AXIS | {"title": "block"}
    several = len({row["encoder"] for row in data}) > 1
    color = field("encoder", "nominal", sort=None) if several else field("head", "ordinal", sort=None, legend=None)
    y = field(value, "quantitative", label, scale={"zero": True})
    mean = {"aggregate": "mean", "field": value, "type": "quantitative", "title": label}
    spec = {
        "encoding": {"x": x},
        "layer": [
            {
                "mark": {"type": "circle", "size": 70, "opacity": 0.8},
                "encoding": {"y": y, "color": color, "tooltip": tooltip("layer", "encoder", "head", **{value: ".2f"})},
            },
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"y": mean, "color": color if several else {"value": "#8a8f98"}},
            },
        ],
    }
    return Figure(name=name, title=title, caption=caption, data=data, spec=spec)


@torch.inference_mode()
def attention_distance(subject: Subject) -> Findings:
    """Distance and entropy of every head of every block."""
    data: ChartRows = []
    for name, encoder in subject.encoders.items():
        distances = patch_distances(encoder.grid, encoder.patch_size).to(encoder.device)
        sums: list[tuple[Tensor, Tensor]] = []
        count = 0
        for images in inputs(encoder, subject.sample(IMAGES)):
            for block, attention in enumerate(attention_maps(encoder, images)):
                distance = mean_distance(patch_attention(encoder, attention), distances) * len(images)
                bits = entropy(attention) * len(images)
                if block == len(sums):
                    sums.append((distance, bits))
                else:
                    sums[block] = (sums[block][0] + distance, sums[block][1] + bits)
            count += len(images)
        for block, (distance, bits) in enumerate(sums):
            for head in range(len(distance)):
                far, wide = float(distance[head]) / count, float(bits[head]) / count
                data.append({"encoder": name, "layer": str(block), "head": head, "distance": far, "entropy": wide})
    tokens = subject.encoder.num_patches + subject.encoder.prefix_tokens
    uniform = float(patch_distances(subject.encoder.grid, subject.encoder.patch_size).mean())
    figures = [
        _figure(
            "attention-distance",
            "How far heads look",
            f"A point per head: distance from a patch to what it attends to. To all alike: {uniform:.0f} px.",
            data,
            "distance",
            "distance (pixels)",
        ),
        _figure(
            "attention-entropy",
            "How widely heads look",
            f"Entropy of the attention: {math.log2(tokens):.2f} bits to all {tokens} tokens alike, 0 to a single one.",
            data,
            "entropy",
            "entropy (bits)",
        ),
    ]
    return Findings(compares=True, numbers={"heads": data, "uniform_distance": uniform}, figures=figures)
