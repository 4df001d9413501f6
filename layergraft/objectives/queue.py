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
        """Look up one of the nearest remembered features, by cosine, for each query.

        Args:
            features: the queries, of shape (N, D).
            draws: uniform numbers that choose among the nearest, of shape (N,).
            topk: how many nearest ones there are to choose from; fewer where fewer are remembered.
            exclude: sample keys of the queries, of shape (N,), so that none is its own neighbour; None excludes none.

        Returns:
            Normalised features of shape (N, D); the query itself where nothing is remembered yet.
        """
        queries = F.normalize(features, dim=1)
        allowed = (self.ids >= 0).expand(len(queries), -1)
        if exclude is not None:
            allowed = allowed & (self.ids != exclude[:, None])
        with torch.autocast(queries.device.type, enabled=False):  # in bf16, near neighbours would tie
            similarity = (queries @ self.features.T).masked_fill(~allowed, -torch.inf)
        nearest = similarity.topk(min(topk, len(self.ids)), dim=1).indices
        count = allowed.sum(dim=1).clamp(max=nearest.shape[1])
        chosen = torch.minimum((draws * count).long(), (count - 1).clamp(min=0))
        neighbours = self.features[nearest.gather(1, chosen[:, None]).squeeze(1)]
        return torch.where(count[:, None] > 0, neighbours, queries)

    def push(self, features: Tensor, ids: Tensor) -> None:
        """Remember features of shape (N, D) with their sample keys (N,)."""
        size = len(self.ids)
        features, ids = F.normalize(features[-size:], dim=1), ids[-size:]
        slots = (self.place + torch.arange(len(ids), device=ids.device)) % size
        self.features[slots] = features.to(self.features.dtype)
        self.ids[slots] = ids
        self.place.copy_((self.place + len(ids)) % size)
