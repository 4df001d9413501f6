"""How many directions do the features use? RankMe, effective rank, alpha-ReQ and LiDAR, by layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer, columns
from layergraft.analysis.subject import NotApplicable, Subject, layer_features, layer_names
from layergraft.analysis.views import view_features
from layergraft.evaluation.rankme import entropy_rank, rankme
from layergraft.evaluation.single_images import CONTRASTIVE
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES, SURROGATES, VIEWS = 2000, 200, 8


def effective_rank(features: Tensor) -> float:
    """Effective rank: exp of the entropy of the covariance's eigenvalues (Roy and Vetterli, EUSIPCO 2007)."""
    return entropy_rank(spectrum(features))


def spectrum(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of (N, D), falling."""
    centred = features.double() - features.double().mean(0)
    eigenvalues: Tensor = torch.linalg.svdvals(centred).square() / len(features)
    return eigenvalues


def alpha_req(eigenvalues: Tensor) -> float:
    """Exponent a of the decay i^-a of falling eigenvalues (Agrawal et al., NeurIPS 2022).

    Least squares in the log-log plane, from the 4th eigenvalue (the first few stand above the law) to the last that is
    above 1e-6 of the largest.
    """
    kept = eigenvalues[eigenvalues > 1e-6 * eigenvalues[0]]
    start = 3 if len(kept) >= 8 else 0
    if len(kept) - start < 2:
        return float("nan")
    index = torch.arange(start + 1, len(kept) + 1, dtype=torch.float64).log()
    value = kept[start:].double().log()
    index, value = index - index.mean(), value - value.mean()
    return -float((index * value).sum() / index.square().sum())


def lidar(features: Tensor, delta: float = 1e-4) -> float:
    """Rank of the linear discriminant matrix over views of the same image (Thilak et al., ICLR 2024).

    Args:
        features: of shape (images, views, D).
        delta: added to the within-image covariance's diagonal.
    """
    n, views, width = features.shape
    features = features.double()
    means = features.mean(1)
    centred = means - means.mean(0)
    between = centred.T @ centred / (n - 1)
    residuals = (features - means[:, None]).reshape(-1, width)
    within = residuals.T @ residuals / (n * (views - 1)) + delta * torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(within)
    whitening = vectors * values.rsqrt()
    eigenvalues = torch.linalg.eigvalsh(whitening.T @ between @ whitening).clamp(min=0)
    return entropy_rank(eigenvalues, 1e-7)


def rank(subject: Subject) -> Findings:
    """Four measures of the class token's dimension, layer by layer."""
    if len(subject.images) < 16:
        raise NotApplicable("it needs at least 16 images")
    data: ChartRows = []
    numbers = {}
    for name, encoder in subject.encoders.items():
        features = layer_features(encoder, subject.sample(IMAGES))
        views = view_features(encoder, subject.sample(SURROGATES), CONTRASTIVE, VIEWS, subject.random)
        rows = []
        for layer, of_layer, of_views in zip(layer_names(encoder), features, views, strict=True):
            measures = {
                "RankMe": rankme(of_layer),
                "effective rank": effective_rank(of_layer),
                "LiDAR": lidar(of_views),
                "alpha-ReQ": alpha_req(spectrum(of_layer)),
            }
            rows.append({"layer": layer} | measures)
            # Before the first block the class token is the same for every image: there is nothing to count.
            counted = {} if layer == "embed" and encoder.prefix_tokens else measures
            for measure, value in counted.items():
                if np.isfinite(value):
                    data.append({"encoder": name, "layer": layer, "measure": measure, "value": value})
        numbers[name] = rows
    ranks = [row for row in data if row["measure"] != "alpha-ReQ"]
    decay = columns([row for row in data if row["measure"] == "alpha-ReQ"], "encoder", "layer", "value")
    figures = [
        by_layer(
            "rank",
            "Dimension of the features",
            "RankMe and effective rank count the directions that features use, LiDAR those that tell images apart "
            f"better than views of one image. Width: {subject.encoder.embed_dim}.",
            ranks,
            "value",
            color="measure",
            label="directions",
            shown=".1f",
        )
    ]
    if decay:
        figures.append(
            by_layer(
                "alpha-req",
                "Decay of the spectrum",
                "alpha-ReQ: exponent of the eigenvalues' decay. 1 is best by theory, larger nearer to collapse.",
                decay,
                "value",
                label="alpha",
                shown=".2f",
            )
        )
    return Findings(
        compares=True,
        numbers=numbers,
        figures=figures,
        notes=[
            f"Class token after the final norm, {min(IMAGES, len(subject.images))} images; LiDAR: "
            f"{min(SURROGATES, len(subject.images))} images, {VIEWS} contrastive views each."
        ],
    )
