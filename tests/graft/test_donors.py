"""What a stage takes from the one before, where shapes do not tell that it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from layergraft.config import dump_recipe, load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.training.run_data import load_data
from layergraft.training.stage import prepare_stage
from layergraft.training.stage_files import save_stage

HEADS = "decoder.blocks.0.attn.qkv.weight"


def second_stage(run: Path, first: int, second: dict[str, Any]) -> bool:
    """Whether the second of two MAE stages, with 2 attention heads, goes on with the decoder of the first."""
    decoder = {"embed_dim": 16, "depth": 1}
    mae = {"objective": {"name": "mae", "decoder": decoder | {"num_heads": first}}, "batch_size": 8}
    more = {"objective": {"name": "mae", "decoder": decoder | {"num_heads": 2}}, "batch_size": 8, "plan": second}
    encoder = {key.removeprefix("encoder."): value for key, value in TINY.items() if key.startswith("encoder.")}
    encoder |= {"name": "vit_tiny_patch16_224", "img_size": 36, "in_chans": 1, "patch_size": 9}
    recipe = load_recipe({"encoder": encoder, "data": {"source": TINY["data.source"]}, "stages": {"a": mae, "b": more}})
    data = load_data(recipe)
    made = [create_encoder(recipe.encoder, seed, (0.5,), (0.25,)) for seed in (0, 1)]
    before = prepare_stage(recipe, "a", run, made[0], data)
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    save_stage(before, {})
    after = prepare_stage(recipe, "b", run, made[1], data)
    weights = [dict(stage.objective.heads.named_parameters())[HEADS] for stage in (before, after)]
    return torch.equal(*weights)


def test_a_decoder_of_other_attention_heads_starts_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "heads.decoder starts fresh: before, it had 4 attention heads."
    assert second_stage(tmp_path / "same", 2, {})
    assert said not in capsys.readouterr().err
    assert not second_stage(tmp_path / "other", 4, {})
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="has 4 attention heads, that of stage 'b' 2"):
        second_stage(tmp_path / "asked", 4, {"source": {"heads.*": str(tmp_path / "asked/stages/0-a")}})
