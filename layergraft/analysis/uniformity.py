"""Are views of an image close, and images spread out? By layer (Wang and Isola, ICML 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer, columns
from layergraft.analysis.subject import NotApplicable, Subject, layer_names
from layergraft.analysis.views import view_features
from layergraft.evaluation.single_images import CONTRASTIVE
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES = 512


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of pairs (N, D) on the sphere: 0 where each pair is equal, 2 where it is orthogonal."""
    a, b = (torch.nn.functional.normalize(part, dim=1) for part in (first, second))
    return float((a - b).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """log of the mean of exp(-2 d^2) over pairs of (N, D) on the sphere: 0 is a point, about -4 spread out evenly."""
    squared = torch.pdist(torch.nn.functional.normalize(features, dim=1)).square()
    return float((-2 * squared).exp().mean().log())


def uniformity_and_alignment(subject: Subject) -> Findings:
    """Both, of two contrastive views of each image."""
    images = subject.sample(IMAGES)
    if len(images) < 2:
        raise NotApplicable("it needs two images")
    data: ChartRows = []
    for name, encoder in subject.encoders.items():
        views = view_features(encoder, images, CONTRASTIVE, 2, subject.random)
        data += [
            {
                "encoder": name,
                "layer": layer,
                "alignment": alignment(of_layer[:, 0], of_layer[:, 1]),
                "uniformity": uniformity(of_layer[:, 0]),
            }
            for layer, of_layer in zip(layer_names(encoder), views, strict=True)
        ]
    figures = [
        by_layer(
            "alignment",
            "Are views of an image close?",
            "Alignment: squared distance between two views of an image on the sphere. Lower is more invariant.",
            columns(data, "encoder", "layer", "alignment"),
            "alignment",
            zero=True,
        ),
        by_layer(
            "uniformity",
            "Are images spread out?",
            "Uniformity: 0 is all images in one point, -4 spread evenly over the sphere. Lower keeps more apart.",
            columns(data, "encoder", "layer", "uniformity"),
            "uniformity",
            zero=True,
        ),
    ]
    notes = ["At embed the class token is the same for every image. Views: crops from a fifth up, colour, blur, flip."]
    return Findings(numbers={"layers": data}, figures=figures, notes=notes, compares=True)
