"""torchvision's Vision Transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from library_files import assert_reads, images, perturbed, said, save
from torchvision.models import VisionTransformer

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

SHAPE = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 96}


@torch.no_grad()
def expected_tokens(model: Any) -> torch.Tensor:
    patches = model._process_input(images())
    return model.encoder(torch.cat([model.class_token.expand(2, -1, -1), patches], dim=1))


@torch.no_grad()
def test_tokens_and_classifier(tmp_path: Path) -> None:
    model = perturbed(VisionTransformer(**SHAPE, num_classes=3))
    for content in (
        model,
        {"model": model.state_dict(), "epoch": 3},
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}},
    ):
        checkpoint = assert_reads(
            f"{save(content, tmp_path / 'file.pth')}?num_heads=4", images(), expected_tokens(model)
        )
        assert checkpoint.format == "torchvision ViT"
        head = checkpoint.classifier
        assert_close(checkpoint.encoder(images()) @ head["weight"].T + head["bias"], model(images()), 1e-4)


def test_a_layer_in_front_of_the_classifier_and_names_before_0_13(tmp_path: Path) -> None:
    model = perturbed(VisionTransformer(**SHAPE, num_classes=3, representation_size=16))
    older = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for key, value in model.state_dict().items()
    }
    checkpoint = assert_reads(f"{save(older, tmp_path / 'file.pth')}?num_heads=4", images(), expected_tokens(model))
    assert not checkpoint.classifier
    assert "classifier of another input than the feature" in said(checkpoint)


def test_a_conv_stem_is_refused(tmp_path: Path) -> None:
    from torchvision.models.vision_transformer import ConvStemConfig

    stem = [ConvStemConfig(out_channels=8, kernel_size=3, stride=2) for _ in range(3)]
    model = VisionTransformer(**SHAPE, conv_stem_configs=stem)
    with pytest.raises(UserError):
        open_checkpoint(f"{save(model, tmp_path / 'file.pth')}?num_heads=4")
