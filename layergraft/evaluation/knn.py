"""Weighted nearest-neighbour classification (Wu et al., CVPR 2018, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layergraft.data.arrays import Labels
from layergraft.evaluation.features import Array, in_range

_QUERIES, _CANDIDATES = 256, 2**22  # that are looked at at a time, and the numbers of all their candidates
# More candidates than neighbours come from the float32 product; float64 decides which of them are nearest.
_SPARE = 12


def knn_votes(
    bank: Tensor, labels: Tensor, queries: Tensor, ks: Sequence[int], temperatures: Sequence[float], classes: int
) -> dict[tuple[int, float], Tensor]:
    """Votes of the k nearest by cosine similarity s, each with weight exp((s - 1) / temperature).

    Args:
        bank: of shape (N, D).
        labels: of shape (N,), below `classes`.
        queries: of shape (M, D).
        ks: numbers of neighbours; one above N takes all.
        temperatures: of the votes.
        classes: number of classes.

    Returns:
        (k, temperature) -> votes, float64 of shape (M, classes).
    """
    bank, queries = (torch.nn.functional.normalize(part.float(), dim=1) for part in (bank, queries))
    votes = {(k, t): queries.new_zeros(len(queries), classes, dtype=torch.float64) for k in ks for t in temperatures}
    if bool((bank == bank[0]).all()):
        # All are equally near, so which k are the nearest would be chance: all vote.
        counts = torch.bincount(labels, minlength=classes).double()
        for (_, temperature), sums in votes.items():
            sums[:] = ((queries.double() @ bank[0].double() - 1) / temperature).exp()[:, None] * counts
        return votes
    # 1, but to float32's precision only.
    parts = torch.split(bank, max(1, _CANDIDATES // bank.shape[1]))  # the whole in float64 is twice as much
    lengths = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts]).clamp(min=1e-12)
    most = min(max(ks), len(bank))
    at_a_time = max(16, min(_QUERIES, _CANDIDATES // ((most + _SPARE) * bank.shape[1])))
    for start in range(0, len(queries), at_a_time):
        part = queries[start : start + at_a_time]
        near = torch.nn.functional.linear(part, bank).topk(min(most + _SPARE, len(bank))).indices
        exact = bank[near].double() @ torch.nn.functional.normalize(part.double(), dim=1)[:, :, None]
        exact = exact[:, :, 0] / lengths[near]
        similarity, order = exact.topk(most)
        voters = labels[near.gather(1, order)]
        for (k, temperature), sums in votes.items():
            weights = ((similarity[:, :k] - 1) / temperature).exp()
            sums[start : start + at_a_time].scatter_add_(1, voters[:, :k], weights)
    return votes


def knn_accuracy(
    train: Array,
    train_labels: Labels,
    test: Array,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Top-1 accuracy in percent.

    Args:
        train: of shape (N, D).
        train_labels: of shape (N,).
        test: of shape (M, D).
        test_labels: of shape (M,).
        k: neighbours; at most N.
        temperature: of the votes.
    """
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    votes = knn_votes(
        torch.from_numpy(in_range(train)),
        torch.from_numpy(train_labels),
        torch.from_numpy(in_range(test)),
        [k],
        [temperature],
        classes,
    )[k, temperature]
    return 100 * float((votes.argmax(1) == torch.from_numpy(test_labels)).double().mean())
