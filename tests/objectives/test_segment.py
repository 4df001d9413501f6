"""Segmentation heads: the linear by hand, UperNet's shapes, ignored pixels, a loss that processes can share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layergraft.config import EncoderConfig, SegmentConfig
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.encoders.vit import create_encoder
from layergraft.objectives.base import Progress
from layergraft.objectives.create import create_objective
from layergraft.objectives.segment import Segment, mean_over_pixels

SMALL = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=24, in_chans=1, patch_size=4, embed_dim=16, depth=8, num_heads=2
)


def batch(masks: torch.Tensor) -> Batch:
    return Batch(
        keys=np.arange(len(masks)),
        epoch=0,
        views={"image": torch.randn(len(masks), 1, 24, 24)},
        labels=None,
        random=Randomness(seed=0, scope="test"),
        masks={"image": masks},
    )


def make(config: SegmentConfig) -> tuple[Segment, torch.nn.Module]:
    encoder = create_encoder(SMALL, 0)
    objective = create_objective(config, encoder)
    assert isinstance(objective, Segment)
    objective.begin_stage(encoder)
    return objective, encoder


def test_linear_is_a_linear_on_each_patch() -> None:
    objective, encoder = make(SegmentConfig(classes=3, batchnorm=False))
    images = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        tokens = encoder.norm(encoder.run_blocks(encoder.tokens(images))[0])[:, 1:]
        weight, bias = objective.heads["linear"].weight[:, :, 0, 0], objective.heads["linear"].bias
        coarse = (tokens @ weight.T + bias).reshape(2, 6, 6, 3)
        assert torch.allclose(
            objective.logits(objective.maps(encoder, images), 6, 6), coarse.permute(0, 3, 1, 2), atol=1e-5
        )
    assert objective.predict(encoder, images).shape == (2, 3, 24, 24)


def test_upernet_sees_four_blocks_and_trains_all_of_it() -> None:
    objective, encoder = make(SegmentConfig(classes=3, head="upernet", width=16))
    assert objective.blocks == (1, 3, 5, 7)
    masks = torch.randint(0, 4, (3, 24, 24), dtype=torch.uint8)
    features = objective.encode(encoder, batch(masks))
    losses, pending = objective.losses(features, Progress(step=0, steps=1))
    losses["loss"].backward()
    assert not pending
    assert objective.heads["upernet"]([torch.randn(1, 16, 6, 6)] * 4).shape == (1, 3, 24, 24)
    for name, parameter in [*objective.named_parameters(), *encoder.named_parameters()]:
        if "pos_embed" not in name:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


def test_ignored_pixels_have_no_say() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.randint(-1, 3, (2, 4, 4))
    loss = mean_over_pixels(logits, target)
    seen = target >= 0
    by_hand = -logits.log_softmax(1).permute(0, 2, 3, 1)[seen].gather(1, target[seen][:, None]).mean()
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad.permute(0, 2, 3, 1)[~seen].abs().sum()) == 0
    nothing = mean_over_pixels(logits, torch.full((2, 4, 4), -1))
    assert float(nothing.detach()) == 0
