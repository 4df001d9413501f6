"""How many directions features use, by the entropy of their spectrum."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_rank(values: Tensor, eps: float = 0.0) -> float:
    """Exponential of the entropy of a spectrum: k equal values give k; no value at all gives 1.

    Args:
        values: singular or eigenvalues, of shape (D,).
        eps: added to each share.
    """
    p = values / values.sum().clamp(min=1e-30) + eps
    return float(torch.special.entr(p.clamp(min=0)).sum().exp())  # of 0 it is 0; rounding makes eigenvalues negative


def rankme(features: Tensor) -> float:
    """RankMe (Garrido et al., ICML 2023, equation 1), in the precision of the features.

    Args:
        features: of shape (N, D).
    """
    return entropy_rank(torch.linalg.svdvals(features), 1e-7)
