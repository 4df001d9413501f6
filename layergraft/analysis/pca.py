"""What do patches share across images? Their features' first three principal components as red, green and blue."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import gallery
from layergraft.analysis.pictures import show
from layergraft.analysis.subject import Subject, inputs
from layergraft.data.thumbnails import address
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES, FIT = 10, 256


def principal_axes(features: Tensor, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, axes (count, D), shares of the variance) of (N, D); the largest entry of an axis is positive."""
    mean = features.double().mean(0)
    centred = features.double() - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.T.flip(0)[:count]
    sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return mean, axes * sign, values.flip(0)[:count] / values.sum()


def to_colour(coordinates: Tensor) -> Tensor:
    """Coordinates (N, 3) -> 0 to 1, each from its 2nd to its 98th percentile."""
    low, high = (torch.quantile(coordinates, q, dim=0) for q in (0.02, 0.98))
    return ((coordinates - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


@torch.inference_mode()
def pca(subject: Subject) -> Findings:
    """Images, and their patches coloured by what they hold."""
    encoder = subject.encoder
    parts, first = [], None
    for images in inputs(encoder, subject.sample(FIT)):
        tokens = encoder.norm(encoder.run_blocks(encoder.tokens(images))[0])[:, encoder.prefix_tokens :]
        parts.append(tokens.cpu())
        first = images if first is None else first
    assert first is not None
    every = torch.cat(parts)
    mean, axes, shares = principal_axes(every.flatten(0, 1))
    colours = to_colour((every.flatten(0, 1).double() - mean) @ axes.T).reshape(len(every), *encoder.grid, -1)
    source = subject.sample(IMAGES)
    data: ChartRows = []
    for column, key in enumerate(source.keys):
        name = source.images.name(int(key))
        picture = (colours[column] * 255).round().byte().numpy()
        data.append({"row": 0, "column": column, "file": name, "image": address(show(encoder, first[column]))})
        data.append({"row": 1, "column": column, "file": name, "image": address(picture)})
    figure = gallery(
        "pca",
        "What patches share",
        "Patch features of the last block: equal colours are equal features, across images too. Red, green and blue "
        f"are the first three principal components ({', '.join(f'{float(s):.0%}' for s in shares)} of the variance).",
        data,
        "file",
    )
    return Findings(numbers={"explained": shares.tolist()}, figures=[figure])
