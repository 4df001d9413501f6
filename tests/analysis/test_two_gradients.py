"""Statistics of two losses' gradients: against autograd on the mean loss, and where the answer is known."""

from __future__ import annotations

import pytest
import torch

from layergraft.analysis.conflict import gradient_cosines
from layergraft.analysis.terms import Terms
from layergraft.analysis.two_gradients import block_gradients, gradients_of
from layergraft.config.encoder import EncoderConfig
from layergraft.encoders.vit import Encoder, create_encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    config = EncoderConfig(img_size=8, in_chans=1, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    return create_encoder(config, 0).eval()


def terms(sign: float, seed: int) -> Terms:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(16, generator=generator)

    def loss(trained: Encoder, image: torch.Tensor) -> torch.Tensor:
        return sign * (trained(image[None])[0] @ wanted)

    return Terms(loss=loss, arguments=(torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(9)),))


def test_a_loss_agrees_with_itself_and_conflicts_with_its_negative(encoder: Encoder) -> None:
    for sign in (1.0, -1.0):
        rows = block_gradients(encoder, gradients_of(encoder, [(terms(1.0, 0), terms(sign, 0))]))
        assert len(rows) == 2
        for row in rows:
            assert (row.cosine, row.image_cosine) == (pytest.approx(sign), pytest.approx(sign, abs=1e-5))
            assert (row.norm_ratio, row.fisher_overlap, row.fisher_ratio) == pytest.approx((1, 1, 1))
            assert row.conflict == (sign < 0)
            assert row.sign_agreement == pytest.approx((1 + sign) / 2, abs=0.05)  # zero agrees with zero
            assert set(row.groups) == {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}


def test_the_statistics_are_those_of_autograd(encoder: Encoder) -> None:
    first, second = terms(1.0, 0), terms(1.0, 1)
    found = gradients_of(encoder, [(first, second)], chunk=5)
    parameters = [p.requires_grad_(True) for p in encoder.vit.blocks[1].parameters()]
    flat = []
    for part in (first, second):
        loss = torch.stack([part.loss(encoder, image) for image in part.arguments[0]]).mean()
        flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double())
    encoder.requires_grad_(False)
    row = block_gradients(encoder, found)[1]
    assert row.cosine == pytest.approx(float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm())), abs=1e-4)
    assert row.norm_ratio == pytest.approx(float(flat[1].norm() / flat[0].norm()), rel=1e-4)
    assert row.second_sum == pytest.approx(float(flat[1].abs().sum()), rel=1e-4)
    assert 0 < row.first_steadiness <= 1
    torch.testing.assert_close(found.cosines, gradient_cosines(encoder, first, second, chunk=5))


def test_batches_are_one_sample(encoder: Encoder) -> None:
    first, second = terms(1.0, 0), terms(1.0, 1)
    halves = [
        tuple(Terms(loss=part.loss, arguments=(part.arguments[0][rows],)) for part in (first, second))
        for rows in (slice(0, 6), slice(6, 12))
    ]
    whole, parts = gradients_of(encoder, [(first, second)]), gradients_of(encoder, ((a, b) for a, b in halves))
    for left, right in zip(block_gradients(encoder, whole), block_gradients(encoder, parts), strict=True):
        assert left.cosine == pytest.approx(right.cosine, abs=1e-5)
        assert left.fisher_ratio == pytest.approx(right.fisher_ratio, rel=1e-4)
