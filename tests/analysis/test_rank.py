import math

import torch

from layergraft.analysis.rank import alpha_req, effective_rank, lidar, spectrum
from layergraft.evaluation.rankme import rankme


def orthogonal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(noise - noise.mean(0))[0]


def test_k_equal_directions_give_k() -> None:
    for k in (1, 5, 20):
        x = 7 * orthogonal(100, k) @ orthogonal(32, k, 1).T
        assert abs(rankme(x) - k) < 1e-3
        assert abs(effective_rank(x) - k) < 1e-6


def test_two_unequal_directions() -> None:
    """Singular values 3 and 1 of the centred matrix: shares 3/4, 1/4 for RankMe, 9/10, 1/10 for the covariance."""
    x = orthogonal(50, 2) * torch.tensor([3.0, 1.0], dtype=torch.float64)
    entropy = lambda p: math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))  # noqa: E731
    assert abs(rankme(x) - entropy(0.75)) < 1e-4
    assert abs(effective_rank(x) - entropy(0.9)) < 1e-9


def test_alpha_of_a_power_law() -> None:
    for alpha in (0.5, 1.0, 2.0):
        x = orthogonal(200, 40) * torch.arange(1, 41, dtype=torch.float64) ** (-alpha / 2)
        assert abs(alpha_req(spectrum(x)) - alpha) < 1e-6


def test_lidar_counts_the_directions_that_tell_images_apart() -> None:
    """Three equal directions between images, isotropic noise within an image of its own mean zero."""
    n, views, width = 400, 10, 12
    means = torch.zeros(n, width, dtype=torch.float64)
    means[:, :3] = orthogonal(n, 3) * n**0.5 * 10
    noise = torch.randn(n, views, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noise -= noise.mean(1, keepdim=True)
    assert abs(lidar(means[:, None] + noise) - 3) < 0.01
