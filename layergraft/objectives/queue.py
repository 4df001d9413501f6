"""Features of past images, to look up neighbours in."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn


class Queue(nn.Module):
    """The features of the last images, each with its sample key; the newest take the place of the oldest.

    Args:
        size: how many are remembered.
        width: D.
    """

    features: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, width))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("place", torch.tensor(0))

    def neighbours(self, features: Tensor, draws: Tensor, topk: int, exclude: Tensor | None = None) -> Tensor:
        """One of the nearest remembered features, by cosine, for each of the given ones.

        Args:
            features: of shape (N, D).
            draws: uniform numbers that choose among the nearest, of shape (N,).
            topk: how many nearest ones there are to choose from; fewer where fewer are remembered.
            exclude: sample keys of the given features, which are then not neighbours of themselves, of shape (N,).

        Returns:
            Normalised, of shape (N, D); the feature itself where nothing is remembered yet.
        """
        own = F.normalize(features, dim=1)
        allowed = (self.ids >= 0).expand(len(own), -1)
        if exclude is not None:
            allowed = allowed & (self.ids != exclude[:, None])
        with torch.autocast(own.device.type, enabled=False):  # in bf16, near neighbours would tie
            similarity = (own @ self.features.T).masked_fill(~allowed, -torch.inf)
        nearest = similarity.topk(min(topk, len(self.ids)), dim=1).indices
        count = allowed.sum(dim=1).clamp(max=nearest.shape[1])
        chosen = torch.minimum((draws * count).long(), (count - 1).clamp(min=0))
        found = self.features[nearest.gather(1, chosen[:, None]).squeeze(1)]
        return torch.where(count[:, None] > 0, found, own)

    def push(self, features: Tensor, ids: Tensor) -> None:
        """Remember features of shape (N, D) with their sample keys (N,)."""
        size = len(self.ids)
        features, ids = F.normalize(features[-size:], dim=1), ids[-size:]
        places = (self.place + torch.arange(len(ids), device=ids.device)) % size
        self.features[places] = features.to(self.features.dtype)
        self.ids[places] = ids
        self.place.copy_((self.place + len(ids)) % size)
