"""Every network of timm's `Eva` family, as a directory and as a bare file: exact, or refused with the true reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from library_files import perturbed, said, save, tokens
from timm.models import is_model_in_modules, save_for_hf

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

_REASONS = ("rotary", "blocks of another kind", "no ViT with learned or fixed positions")
_REASONS += ("do not fit the encoder",)  # spatial Perception Encoders lack the norm behind the blocks
NAMES = [name for name in timm.list_models() if is_model_in_modules(name, {"eva"})]


def shrunk(name: str) -> tuple[Any, dict[str, Any]]:
    """(the model with two narrow blocks and 4×4 patches, its arguments)."""
    narrow: dict[str, Any] = {"embed_dim": 64, "num_heads": 4}
    with torch.device("meta"):
        usual = timm.create_model(name, depth=1, num_classes=0, **narrow, **_key_heads(name, 1))
    arguments = narrow | {"depth": 2, "img_size": 4 * usual.patch_embed.patch_size[0]}
    if usual.attn_pool is not None:
        arguments |= {"attn_pool_num_heads": 4}
    arguments |= _key_heads(name, 2)
    return perturbed(timm.create_model(name, num_classes=0, **arguments), 0.05), arguments


def _key_heads(name: str, depth: int) -> dict[str, Any]:
    """Sapiens2 has fewer keys than queries, and says so for each block."""
    return {"num_kv_heads": (2,) * depth} if "sapiens2" in name else {}


@pytest.mark.slow
@torch.no_grad()
def test_none_is_wrong_in_silence(tmp_path: Path) -> None:
    outcomes: dict[str, str] = {}
    for number, name in enumerate(NAMES):
        model, arguments = shrunk(name)
        directory = tmp_path / str(number)
        save_for_hf(model, directory, model_args=arguments)
        size = model.patch_embed.img_size
        pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        expected = model.forward_features(pixels)
        assert_close(tokens(open_checkpoint(directory), pixels), expected, 1e-4)
        file = save(model, tmp_path / "file.pth")
        try:
            checkpoint = open_checkpoint(f"{file}?num_heads=4")
        except UserError as error:
            outcomes[name] = f"refused: {error.problem}"
            continue
        difference = float((tokens(checkpoint, pixels) - expected).abs().max() / expected.abs().max())
        outcome = "exact" if difference <= 1e-4 else f"wrong by {difference:.1e}"
        outcomes[name] = f"{outcome}: {said(checkpoint)}"
    print(
        f"{len(NAMES)} directories exact; bare files:", *(f"{name} {how}" for name, how in outcomes.items()), sep="\n"
    )
    wrong = [name for name, how in outcomes.items() if how.startswith("wrong")]
    refused = [how for how in outcomes.values() if how.startswith("refused")]
    assert wrong == []
    assert [how for how in refused if not any(reason in how for reason in _REASONS)] == []
    assert len(NAMES) - len(refused) >= 10
