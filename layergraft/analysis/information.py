"""How much does a token still tell about its own patch? Mutual information of patch pixels and token, by layer.

Estimator: Gaussian-copula mutual information (Ince et al., Human Brain Mapping 2017). Patch pixels and tokens are each
reduced to their first principal components, every component is mapped to a normal by its ranks, and the mutual
information of the two Gaussians is corrected for its bias (Panzeri-style, with digamma functions). It is a lower bound
of what the components share; position is taken out by subtracting each position's mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer
from layergraft.analysis.subject import NotApplicable, Subject, inputs, layer_names, layer_tokens, patch_tokens
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings
from layergraft.runs.readable import counted

IMAGES, SAMPLES, COMPONENTS = 512, 8192, 8


def copula_normal(values: Tensor) -> Tensor:
    """Each column of (N, D) mapped to a standard normal by its ranks."""
    ranks = values.argsort(0).argsort(0).double() + 1
    normal: Tensor = torch.special.ndtri(ranks / (len(values) + 1))
    return normal


def _entropy(x: Tensor) -> float:
    """Bias-corrected entropy of a Gaussian from samples (N, D), in nats, without terms that cancel."""
    n, d = x.shape
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (n - 1)
    half = torch.arange(1, d + 1, dtype=torch.float64)
    bias = torch.special.digamma((n - half) / 2).sum() + d * (math.log(2) - math.log(n - 1))
    return 0.5 * float(torch.logdet(covariance) - bias)


def gaussian_information(x: Tensor, y: Tensor) -> float:
    """Mutual information in bits of samples (N, D) and (N, E), as if they were jointly Gaussian."""
    both = torch.cat([x, y], dim=1)
    return (_entropy(x) + _entropy(y) - _entropy(both)) / math.log(2)


def principal_components(values: Tensor, count: int) -> Tensor:
    """(N, D) -> its coordinates along the directions of largest variance, (N, at most `count`)."""
    centred = values.double() - values.double().mean(0)
    eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred)
    keep = [i for i in range(len(eigenvalues) - 1, -1, -1) if eigenvalues[i] > 1e-9 * eigenvalues[-1]][:count]
    coordinates: Tensor = centred @ vectors[:, keep]
    return coordinates


@torch.inference_mode()
def information(subject: Subject) -> Findings:
    """Bits that the components of a token share with those of its patch."""
    data: ChartRows = []
    samples = 0
    for name, encoder in subject.encoders.items():
        patches: list[Tensor] = []
        tokens: list[list[Tensor]] = [[] for _ in range(encoder.depth + 1)]
        source = subject.sample(min(IMAGES, max(1, SAMPLES // encoder.num_patches)))
        for images in inputs(encoder, source):
            patches.append(encoder.patchify(images).cpu())
            for of_layer, encoded in zip(tokens, layer_tokens(encoder, images), strict=True):
                of_layer.append(patch_tokens(encoder, encoded).cpu())
        pixels = _without_position(torch.cat(patches))
        samples = len(pixels)
        if samples < 20 * COMPONENTS:
            raise NotApplicable(f"it needs {20 * COMPONENTS} patches, there are {samples}")
        x = copula_normal(principal_components(pixels, COMPONENTS))
        for layer, parts in zip(layer_names(encoder), tokens, strict=True):
            y = copula_normal(principal_components(_without_position(torch.cat(parts)), COMPONENTS))
            data.append({"encoder": name, "layer": layer, "bits": gaussian_information(x, y)})
    figure = by_layer(
        "information",
        "What a token still knows of its patch",
        "Mutual information of a patch's pixels and its token (Gaussian copula, a lower bound).",
        data,
        "bits",
        label="bits",
        shown=".2f",
        zero=True,
    )
    note = (
        f"The first {COMPONENTS} principal components of pixels and of tokens, {counted(samples, 'patch')}, ranks "
        "mapped to normals, bias corrected; each position's mean is subtracted."
    )
    return Findings(numbers={"layers": data}, figures=[figure], notes=[note], compares=True)


def _without_position(values: Tensor) -> Tensor:
    """(N, P, D) -> (N * P, D) without the mean of each of the P positions."""
    return (values.double() - values.double().mean(0)).flatten(0, 1)
