import torch

from layergraft.analysis.cka import cka_matrix, gram


def kernels(features: torch.Tensor, batch: int = 64) -> list[torch.Tensor]:
    return [gram(part) for part in features.split(batch)]


def test_rotation_and_scale_do_not_matter() -> None:
    x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    value = cka_matrix([kernels(x)], [kernels(3 * x @ q)])
    assert abs(float(value) - 1) < 1e-10


def test_independent_noise_is_near_zero_where_the_biased_estimator_is_not() -> None:
    x, y = (torch.randn(512, 200, generator=torch.Generator().manual_seed(seed)).double() for seed in (2, 3))
    assert abs(float(cka_matrix([kernels(x)], [kernels(y)]))) < 0.03
    x, y = x - x.mean(0), y - y.mean(0)
    biased = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert biased > 0.2


def test_shared_half() -> None:
    """Half of the variance shared: HSIC(X, Y) = 1/2 HSIC(X, X) for X = [A, B], Y = [A, C] of equal widths."""
    a, b, c = (torch.randn(4096, 8, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5, 6))
    value = cka_matrix([kernels(torch.cat([a, b], 1), 256)], [kernels(torch.cat([a, c], 1), 256)])
    assert abs(float(value) - 0.5) < 0.02
