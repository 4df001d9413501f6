"""Bare files of every plain ViT of timm: exact, refused, or wrong by what a file cannot tell, which is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from library_files import perturbed, said, save, tokens

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

_REASONS = ("tokens in front", "blocks of another kind", "do not fit the encoder")
# Same keys, other networks: what is said of them is the least that can be done.
_CANNOT_BE_TOLD = ("quickgelu", "rpn")  # another activation; norms behind attention and MLP


def shrunk(name: str) -> Any:
    """The model with two narrow blocks and 4×4 patches; None where timm cannot build it so narrow."""
    with torch.device("meta"):
        patch = timm.create_model(name, depth=1, num_classes=0).patch_embed.patch_size[0]
    shape = {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 4 * patch, "num_classes": 0}
    try:
        return perturbed(timm.create_model(name, **shape), 0.05)
    except AssertionError:  # a gated MLP whose width does not divide by two
        return perturbed(timm.create_model(name, **shape, mlp_ratio=4), 0.05)


@pytest.mark.slow
def test_none_is_wrong_in_silence(tmp_path: Path) -> None:
    names = [n for n in timm.list_models() if timm.model_entrypoint(n).__module__ == "timm.models.vision_transformer"]
    outcomes: dict[str, list[str]] = {"exact": [], "refused": [], "wrong": [], "other": []}
    for name in names:
        model = shrunk(name)
        file = save(model, tmp_path / "file.pth")
        try:
            checkpoint = open_checkpoint(f"{file}?num_heads=4")
        except UserError as error:
            outcomes["refused" if any(reason in error.problem for reason in _REASONS) else "other"].append(name)
            continue
        side = checkpoint.encoder.img_size
        pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = model.forward_features(pixels)
        same = bool((tokens(checkpoint, pixels) - expected).abs().max() <= 1e-4 * expected.abs().max())
        if not same:
            assert any(word in name for word in _CANNOT_BE_TOLD), name
            assert "is assumed, norms before attention and MLP: a file does not tell" in said(checkpoint)
        outcomes["exact" if same else "wrong"].append(name)
    assert len(outcomes["exact"]) > 0.6 * len(names), outcomes
    assert not outcomes["other"]
    assert len(outcomes["wrong"]) <= 12
