"""Features of random views of the same image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layergraft.analysis.subject import layer_tokens
from layergraft.config.data import ViewConfig
from layergraft.data.augment import fixed_view, random_view
from layergraft.data.batch import Normalize
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.data.view_parameters import DRAWS
from layergraft.encoders.vit import Encoder
from layergraft.runs.interruption import check


def view_batch(encoder: Encoder, source: Source, config: ViewConfig, random: Randomness, epoch: int = 0) -> Tensor:
    """One random view of each image, from its test view: normalised, of shape (N, C, H, W).

    Args:
        encoder: decides size, channels and normalisation.
        source: the images.
        config: the augmentation.
        random: where its random numbers come from.
        epoch: another one gives other views.
    """
    size, channels = encoder.img_size, encoder.in_chans
    draws = random.uniform("view", source.keys, epoch, DRAWS)
    views = [
        random_view(fixed_view(source.images.load(int(key), channels), size), config, size, numbers)
        for key, numbers in zip(source.keys, draws, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).to(encoder.device)
    return Normalize(mean=encoder.mean, std=encoder.std)(pixels)


@torch.inference_mode()
def view_features(
    encoder: Encoder, source: Source, config: ViewConfig, views: int, random: Randomness, batch_size: int = 64
) -> list[Tensor]:
    """Features of several views of each image at every layer, in float64: a list of (N, views, D)."""
    batches: list[list[Tensor]] = [[] for _ in range(encoder.depth + 1)]  # layer -> (n, views, D) of each batch
    for start in range(0, len(source), batch_size):
        check()
        chunk = source.subset(source.keys[start : start + batch_size])
        by_view = []  # features (n, D) at each layer, of each view
        for view in range(views):
            layers = layer_tokens(encoder, view_batch(encoder, chunk, config, random, view))
            by_view.append([encoder.feature(encoder.norm(tokens)).double().cpu() for tokens in layers])
        for layer, of_views in zip(batches, zip(*by_view, strict=True), strict=True):
            layer.append(torch.stack(of_views, dim=1))
    return [torch.cat(layer) for layer in batches]
