"""Weighted nearest-neighbour classification (Wu et al., CVPR 2018, section 3.4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def knn_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Top-1 accuracy in percent: cosine similarity s, the k nearest vote with weight exp(s / temperature).

    Args:
        train: of shape (N, D).
        train_labels: of shape (N,).
        test: of shape (M, D).
        test_labels: of shape (M,).
        k: neighbours; at most N.
        temperature: of the votes.
    """
    bank = torch.nn.functional.normalize(torch.from_numpy(train), dim=1)
    queries = torch.nn.functional.normalize(torch.from_numpy(test), dim=1)
    labels, truth = torch.from_numpy(train_labels), torch.from_numpy(test_labels)
    classes, correct = int(max(labels.max(), truth.max())) + 1, 0
    for start in range(0, len(queries), 1024):
        similarity, index = (queries[start : start + 1024] @ bank.T).topk(min(k, len(bank)))
        votes = torch.zeros(len(similarity), classes, dtype=torch.float64)
        votes.scatter_add_(1, labels[index], (similarity.double() / temperature).exp())
        correct += int((votes.argmax(1) == truth[start : start + 1024]).sum())
    return 100 * correct / len(queries)
