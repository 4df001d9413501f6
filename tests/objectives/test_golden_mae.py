"""MAE against numbers recorded from the original implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import assert_close
from safetensors.torch import load_file

from layergraft.config import DecoderConfig, MaeConfig
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.foreign_formats.detect import detect
from layergraft.encoders.safe_load import read_file
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Progress
from layergraft.objectives.losses import masked_pixel_loss
from layergraft.objectives.mae import Mae


@pytest.fixture
def golden(fixtures: Path) -> tuple[Encoder, Mae, dict[str, torch.Tensor]]:
    file = fixtures / "mae_tiny" / "checkpoint.pth"
    encoder = load_encoder(f"{file}?num_heads=4")
    objective = Mae(MaeConfig(decoder=DecoderConfig(embed_dim=32, depth=2, num_heads=4)), encoder)
    heads = detect(read_file(file), "file").heads
    objective.load_state_dict({f"heads.{name}": value for name, value in heads.items()})
    return encoder, objective, load_file(fixtures / "mae_tiny" / "expected.safetensors")


def test_sincos_positions(golden: tuple[Encoder, Mae, dict[str, torch.Tensor]]) -> None:
    from layergraft.encoders.positions import sincos_positions

    encoder, objective, _ = golden
    assert_close(sincos_positions(48, (4, 4), 1), encoder.vit.pos_embed.detach(), 1e-6)
    assert_close(sincos_positions(32, (4, 4), 1), objective.heads["decoder"].positions, 1e-6)


def test_outputs_loss_and_gradients(golden: tuple[Encoder, Mae, dict[str, torch.Tensor]]) -> None:
    encoder, objective, expected = golden
    images = expected["images"]
    keep, removed = objective.split(expected["noise"])
    tokens, _ = encoder.run_blocks(encoder.tokens(images, keep))
    latent = encoder.norm(tokens)
    assert_close(latent, expected["latent_visible"])
    mask = torch.ones(4, 16).scatter(1, keep, 0)
    assert torch.equal(mask, expected["mask"])
    prediction = objective.heads["decoder"](latent, keep)
    assert_close(prediction, expected["pred"])
    for norm_pix, name in ((True, "loss_norm_pix"), (False, "loss_raw_pix")):
        loss = masked_pixel_loss(prediction, encoder.patchify(images), mask, norm_pix=norm_pix)
        assert_close(loss, expected[name])
    target = encoder.patchify(images).gather(1, removed[:, :, None].expand(-1, -1, 192))
    features = {"latent": latent, "keep": keep, "removed": removed, "target": target}
    losses, _ = objective.losses(features, Progress(step=0, steps=1))
    assert_close(losses["loss"], expected["loss_norm_pix"])
    losses["loss"].backward()
    names = dict(encoder.vit.named_parameters())
    for name, parameter in objective.heads["decoder"].named_parameters():
        names[name if name == "mask_token" else f"decoder_{name}"] = parameter
    recorded = {key.removeprefix("grad."): value for key, value in expected.items() if key.startswith("grad.")}
    assert recorded
    for name, gradient in recorded.items():
        own = names[name].grad
        assert own is not None, name
        width = gradient.shape[0] // 3
        if name.endswith("qkv.bias"):  # the gradient of a key bias is zero in truth
            own, gradient = (torch.cat([g[:width], g[2 * width :]]) for g in (own, gradient))
        assert_close(own, gradient)


def test_features_without_mask(golden: tuple[Encoder, Mae, dict[str, torch.Tensor]]) -> None:
    encoder, _, expected = golden
    everything = torch.arange(16).expand(4, -1)
    for tokens in (encoder.tokens(expected["images"]), encoder.tokens(expected["images"], everything)):
        assert_close(encoder.norm(encoder.run_blocks(tokens)[0]), expected["features_unmasked"])
