"""Scores of an encoder that need no label: which of several is best, where nobody has labelled anything?

How well each of them ranks encoders by what they reach with labels is measured in docs/plans.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from layergraft.analysis.rank import alpha_req, lidar, spectrum
from layergraft.analysis.uniformity import alignment, uniformity
from layergraft.analysis.views import view_features
from layergraft.config.data import ViewConfig
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.evaluation import logistic
from layergraft.evaluation.features import center_and_normalize, extract, extract_all
from layergraft.evaluation.rankme import rankme
from layergraft.evaluation.single_images import CONTRASTIVE, single_image_accuracy, single_images
from layergraft.runs.interruption import check

SCORED = 1000  # images are enough
SURROGATES, VIEWS, SHOTS, SPLITS = 256, 8, 5, 5


def clusters(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """Pseudo-labels (N,): k-means on centred features (N, D) of unit length."""
    from sklearn.cluster import KMeans

    prepared = center_and_normalize(features.float().numpy())
    assigned = KMeans(n_clusters=count, n_init=1, random_state=seed).fit(prepared).labels_
    return torch.from_numpy(assigned.astype(np.int64))


def few_shot_accuracy(
    features: Tensor, labels: Tensor, penalty: float = logistic.PUBLISHED_LAMBDA_N, shots: int = SHOTS, seed: int = 0
) -> float:
    """Accuracy in percent of logistic regressions on `shots` examples of each label, the mean over random splits.

    Labels with fewer than twice as many images are left out; of a single one that is left all images are right.

    Args:
        features: of shape (N, D).
        labels: of shape (N,).
        penalty: lambda times the number of examples.
        shots: examples of each label.
        seed: of the splits.
    """
    prepared = torch.from_numpy(center_and_normalize(features.float().numpy())).double()
    counts = torch.bincount(labels)
    large = (counts >= 2 * shots).nonzero().flatten()
    if len(large) < 2:
        return 100.0 * len(large)
    renamed = torch.full((len(counts),), -1).scatter(0, large, torch.arange(len(large)))[labels]
    rows = (renamed >= 0).nonzero().flatten()
    prepared, renamed = prepared[rows], renamed[rows]
    generator, right = torch.Generator().manual_seed(seed), []
    for _ in range(SPLITS):
        check()
        order = torch.randperm(len(renamed), generator=generator)
        by_label = order[renamed[order].argsort(stable=True)]
        first = renamed[by_label].bincount().cumsum(0).roll(1)
        first[0] = 0
        chosen = by_label[(first[:, None] + torch.arange(shots)).flatten()]
        weights = logistic.fit(prepared[chosen], renamed[chosen], len(large), penalty)
        others = torch.ones(len(renamed), dtype=torch.bool).index_fill_(0, chosen, False)
        right.append(float((logistic.predict(weights, prepared[others]) == renamed[others]).double().mean()))
    return 100 * float(np.mean(right))


def scores(
    encoder: Encoder,
    source: Source,
    held_out: Source,
    random: Randomness,
    pseudo: Mapping[str, Tensor],
    view: ViewConfig = CONTRASTIVE,
) -> dict[str, float]:
    """All of them, of an encoder's class token behind the last block.

    Args:
        encoder: in evaluation mode.
        source: unlabelled images that can be read.
        held_out: others, which trained nothing.
        random: of the views.
        pseudo: name -> pseudo-labels of the images of `source`, of shape (N,).
        view: the augmentation of views.
    """
    features = torch.from_numpy(extract(encoder, source, "cls"))
    views = view_features(encoder, source.subset(source.keys[:SURROGATES]), view, VIEWS, random)[-1]
    singles = single_images(held_out, encoder.img_size, encoder.reads, seed=random.seed, view=view)
    recognised = single_image_accuracy(singles, extract_all(encoder, singles, ["cls"])["cls"], (1, SHOTS))
    measured = {
        "rankme": rankme(features.double()),
        "lidar": lidar(views),
        "alpha_req": alpha_req(spectrum(features)),
        "alignment": alignment(views[:, 0], views[:, 1]),
        "uniformity": uniformity(views[:, 0]),
        "single_images": float(np.mean(list(recognised.values()))),
    }
    return measured | {name: few_shot_accuracy(features, labels) for name, labels in pseudo.items()}
