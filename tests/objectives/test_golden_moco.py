"""MoCo v3 against numbers recorded from the original implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FIXTURES, assert_close
from safetensors.torch import load_file

from layergraft.config import MocoConfig
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.foreign_formats.detect import detect
from layergraft.encoders.safe_load import read_file
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Progress
from layergraft.objectives.moco import Moco
from layergraft.objectives.views import VIEWS

START = Progress(step=0, steps=100)


def build() -> tuple[Encoder, Moco]:
    file = FIXTURES / "mocov3_tiny" / "checkpoint.pth.tar"
    encoder = load_encoder(f"{file}?num_heads=4").train()
    objective = Moco(MocoConfig(projector=(64, 64, 16), predictor=(64, 16)), encoder)
    objective.begin_stage(load_encoder(f"{file}?num_heads=4&encoder=momentum"))
    heads = detect(read_file(file), "file").heads
    for name, value in heads.items():
        slow = name.startswith("momentum.")
        place = objective.momentum_copies if slow else objective.heads
        state = place.state_dict()
        state[name.removeprefix("momentum.")].copy_(value)
    for row in ("patch_embed", "positions"):
        for parameter in encoder.layers()[row]:
            parameter.requires_grad_(False)
    return encoder, objective


def views(x1: torch.Tensor, x2: torch.Tensor) -> Batch:
    random = Randomness(seed=0, scope="test")
    return Batch(keys=np.arange(len(x1)), epoch=0, views={"first": x1, "second": x2}, labels=None, random=random)


def named_gradients(encoder: Encoder, objective: Moco) -> dict[str, torch.Tensor]:
    found = {f"base_encoder.{name}": p.grad for name, p in encoder.vit.named_parameters()}
    found |= {f"base_encoder.head.{name}": p.grad for name, p in objective.heads["projector"].named_parameters()}
    found |= {f"predictor.{name}": p.grad for name, p in objective.heads["predictor"].named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.fixture
def expected(fixtures: Path) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "mocov3_tiny" / "expected.safetensors")


def test_features_of_both_encoders(expected: dict[str, torch.Tensor]) -> None:
    encoder, objective = build()
    with torch.no_grad():
        assert_close(encoder.eval()(expected["x1"]), expected["features_base_x1"])
        assert_close(objective.momentum_copies["encoder"].eval()(expected["x1"]), expected["features_momentum_x1"])


def test_momentum_update_keys_loss_and_gradients(expected: dict[str, torch.Tensor]) -> None:
    encoder, objective = build()
    assert objective.before_step(encoder, START) == {"momentum": 0.99}
    slow = {f"momentum_encoder.{n}": p for n, p in objective.momentum_copies["encoder"].vit.named_parameters()}
    slow |= {f"momentum_encoder.head.{n}": p for n, p in objective.momentum_copies["projector"].named_parameters()}
    recorded = {key.removeprefix("ema."): value for key, value in expected.items() if key.startswith("ema.")}
    own = {name.removeprefix("momentum_encoder."): value for name, value in slow.items()}
    assert recorded
    for name, value in recorded.items():
        assert_close(own[name.removeprefix("module.").removeprefix("momentum_encoder.")].detach(), value, 1e-6)
    features = objective.encode(encoder, views(expected["x1"], expected["x2"]))
    losses, pending = objective.losses(features, START)
    assert_close(losses["loss"].detach(), expected["loss"])
    projector, predictor = objective.heads["projector"], objective.heads["predictor"]
    assert_close(predictor(projector(features["first"])).detach(), expected["q1"])
    assert_close(predictor(projector(features["second"])).detach(), expected["q2"])
    with torch.no_grad():
        assert_close(objective.momentum_copies["projector"](features["first_momentum"]), expected["k1"])
        assert_close(objective.momentum_copies["projector"](features["second_momentum"]), expected["k2"])
    losses["loss"].backward()
    gradients = named_gradients(encoder, objective)
    recorded = {key.removeprefix("grad."): value for key, value in expected.items() if key.startswith("grad.")}
    assert recorded
    # BatchNorm removes what the final norm's bias adds: that gradient is zero in truth, and rounding is all there is.
    noise = recorded.pop("base_encoder.norm.bias")
    scale = recorded["base_encoder.norm.weight"].abs().max()
    assert max(noise.abs().max(), gradients["base_encoder.norm.bias"].abs().max()) < 1e-5 * scale
    for name, gradient in recorded.items():
        ours = gradients[name]
        width = gradient.shape[0] // 3
        if name.endswith("qkv.bias"):  # the gradient of a key bias is zero in truth
            ours, gradient = (torch.cat([g[:width], g[2 * width :]]) for g in (ours, gradient))
        assert_close(ours, gradient)
    assert pending


def test_buffers_change_only_when_the_step_is_accepted(expected: dict[str, torch.Tensor]) -> None:
    encoder, objective = build()
    before = {name: value.clone() for name, value in objective.named_buffers()}
    _, pending = objective.losses(objective.encode(encoder, views(expected["x1"], expected["x2"])), START)
    assert all(torch.equal(value, before[name]) for name, value in objective.named_buffers())
    objective.after_step(pending)
    tracked = "heads.projector.1.num_batches_tracked"
    assert int(dict(objective.named_buffers())[tracked]) == int(before[tracked]) + 2


def test_token_dropping_belongs_to_sample_and_view(expected: dict[str, torch.Tensor]) -> None:
    encoder, _ = build()
    objective = Moco(MocoConfig(projector=(64, 64, 16), predictor=(64, 16), keep_ratio=0.5), encoder)
    objective.begin_stage(encoder)
    batch = views(expected["x1"], expected["x2"])
    keep = objective.kept_patches(encoder, batch, VIEWS)
    assert keep is not None
    assert keep.shape == (16, 8)
    assert not torch.equal(keep[:8], keep[8:])
    alone = objective.kept_patches(encoder, batch.part(3, 5), VIEWS)
    assert alone is not None
    assert torch.equal(alone[:2], keep[3:5])
    features = objective.encode(encoder, batch)
    assert features["first"].shape == (8, 48)
    everything = Moco(MocoConfig(projector=(64, 64, 16), predictor=(64, 16)), encoder)
    assert everything.kept_patches(encoder, batch, VIEWS) is None
