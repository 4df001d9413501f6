"""A silent mismatch is impossible: what a file has too much, too little or otherwise is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import Weights
from test_foreign_formats import CASES, dinov2_weights

from layergraft import load_encoder
from layergraft.encoders.foreign_formats.transformers_names import to_timm
from layergraft.errors import UserError

# One of each reader.
FILES = {
    name: CASES[name][0]
    for name in ("mae with decoder", "moco v3", "dino teacher", "ibot backbone", "i-jepa", "mim-refiner")
}
FILES["dinov2"] = dinov2_weights(True)


def weights_of(content: dict[str, Any]) -> tuple[dict[str, Any], Weights]:
    """A copy of a file's content, and the dict in it that holds the default encoder's weights."""
    copied = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    inner = next((copied[key] for key in ("teacher", "target_encoder", "model", "state_dict") if key in copied), copied)
    return copied, inner


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_unexplained(name: str, tmp_path: Path) -> None:
    content, weights = weights_of(FILES[name])
    prefix = next(key for key in weights if key.endswith("blocks.0.norm1.weight")).removesuffix("blocks.0.norm1.weight")
    for extra in (f"{prefix}blocks.0.attn.surprise", f"{prefix}surprise"):
        weights[extra] = torch.zeros(3)
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(UserError, match="surprise"):
            load_encoder(tmp_path / "file.pth")
        del weights[extra]
    for missing in ("blocks.1.norm2.bias", "norm.weight", "patch_embed.proj.bias"):
        value = weights.pop(prefix + missing)
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(UserError, match=missing):
            load_encoder(tmp_path / "file.pth")
        weights[prefix + missing] = value[:-1]
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(UserError, match=missing):
            load_encoder(tmp_path / "file.pth")
        weights[prefix + missing] = torch.full_like(value, float("nan"))
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(UserError, match="not finite"):
            load_encoder(tmp_path / "file.pth")
        weights[prefix + missing] = value


@pytest.mark.parametrize("name", FILES)
def test_tensors_beside_and_below_the_weights_are_explained(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, weights = weights_of(FILES[name])
    if weights is not content:
        state = {"epoch": torch.tensor(3), "rng_state": torch.get_rng_state(), "queue": torch.zeros(4, 8)}
        torch.save(content | {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}} | state, tmp_path / "file.pth")
        load_encoder(tmp_path / "file.pth")
        assert re.search("optimizer.*rng_state, queue", capsys.readouterr().err)
        torch.save(content | {"surprise": torch.zeros(3)}, tmp_path / "file.pth")
        with pytest.raises(UserError, match="surprise"):
            load_encoder(tmp_path / "file.pth")
        prefix = "module." if all(key.startswith("module.") for key in weights) else ""
        weights[f"{prefix}surprise"] = {"below": torch.zeros(3)}  # type: ignore[assignment]
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(UserError, match=r"surprise\.below"):
            load_encoder(tmp_path / "file.pth")


@pytest.mark.parametrize("shape", [(), (0,), (3,)])
def test_a_query_of_another_shape_than_its_key(shape: tuple[int, ...]) -> None:
    """A foreign file's triple that is none stays as it is, and is named as unknown."""
    rest = {f"encoder.layer.0.attention.attention.{part}.bias": torch.zeros(48) for part in ("key", "value")}
    weights = rest | {"encoder.layer.0.attention.attention.query.bias": torch.zeros(shape)}
    assert not any("qkv" in name for name in to_timm(weights))
