"""`start` and plan sources: the same loader, positions resized and said, all else must agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import TINY, assert_close

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig, load_recipe
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.graft.donors import Donors, first_encoder

ENCODER = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 9, "in_chans": 1}


def write(path: Path, **changes: Any) -> Path:
    """A file with timm's names, random weights."""
    torch.manual_seed(3)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **(ENCODER | {"img_size": 36} | changes))
    torch.save({"model": vit.state_dict()}, path)
    return path


def start(file: Path, **overrides: Any) -> Any:
    changes = TINY | {"start": f"{file}?num_heads=2"} | {f"encoder.{key}": value for key, value in overrides.items()}
    return first_encoder(load_recipe("fashion_paper", changes), (0.5,), (0.25,))


def test_positions_are_resized_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "small.pth")
    same = start(file)
    assert "was resized" not in capsys.readouterr().err
    larger = start(file, img_size=54)
    assert "pos_embed was resized from 4×4 to 6×6" in capsys.readouterr().err
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **(ENCODER | {"img_size": 54})).eval()
    weights = torch.load(file)["model"]
    from timm.models.vision_transformer import checkpoint_filter_fn

    theirs.load_state_dict(checkpoint_filter_fn(weights, theirs))
    x = torch.randn(2, 1, 54, 54, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(larger.eval()(x), theirs(x))
        assert torch.equal(same.vit.pos_embed, weights["pos_embed"])


def test_a_class_token_without_position_gets_zeros(tmp_path: Path) -> None:
    file = write(tmp_path / "free.pth", no_embed_class=True)
    x = torch.randn(2, 1, 36, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(start(file).eval()(x), layergraft.load_encoder(f"{file}?num_heads=2")(x))


@pytest.mark.parametrize(
    ("changes", "query", "message"),
    [
        ({"depth": 2}, "?num_heads=2", "nothing says where blocks.2 comes from"),
        ({"embed_dim": 64}, "?num_heads=2", "other shape"),
        ({"in_chans": 3}, "?num_heads=2", "patch_embed.proj.weight (32, 3, 9, 9) for (32, 1, 9, 9)"),
        ({"reg_tokens": 2}, "?num_heads=2", "unexpected: reg_token"),
        ({}, "?num_heads=4", "4 attention heads"),
        ({}, "", "does not say how many heads"),
    ],
)
def test_what_does_not_fit_is_listed(
    changes: dict[str, Any], query: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "other.pth", **changes)
    words = ["train", "--recipe", "fashion_paper", "--start", f"{file}{query}", "--out", str(tmp_path / "run")]
    for key in ("embed_dim", "depth", "num_heads"):
        words += [f"--encoder.{key}", str(ENCODER[key])]
    assert main([*words, "--stages.graft.plan.lr_scale", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["vit_base_patch16_rpn_224", "vit_so400m_patch16_siglip_gap_256"])
def test_other_blocks_are_refused(name: str, tmp_path: Path) -> None:
    """Their weights have the same names and shapes."""
    config = EncoderConfig(name=name, img_size=36, class_token=False, mlp_ratio=4, init_values=0.1, **ENCODER)
    save_encoder(create_encoder(config, 0), tmp_path, {})
    with pytest.raises(UserError, match="Block with GELU"):
        start(tmp_path, class_token=False, init_values=0.1, **ENCODER)


def test_sources_of_a_plan_take_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "larger.pth", img_size=54)
    changes = {f"stages.{name}.epochs": 0.01 for name in ("mae", "graft")}
    changes["stages.mae.plan.source"] = {"*": f"{file}?num_heads=2"}
    changes["stages.mae.plan.freeze"] = ["positions", "blocks.*", "patch_embed", "tokens", "norm"]
    run = layergraft.train(recipe="fashion_paper", out=tmp_path / "run", overrides=TINY | changes | {"data.workers": 0})
    assert "pos_embed was resized from 6×6 to 4×4" in capsys.readouterr().err
    mae, weights = layergraft.load_encoder(run.out / "stages" / "0-mae"), torch.load(file)["model"]
    for name, value in mae.vit.state_dict().items():
        assert name == "pos_embed" or torch.equal(value, weights[name]), name
    for query, same in (("", "1-graft/encoder"), ("?encoder=momentum", "1-graft/encoder_momentum")):
        loaded = layergraft.load_encoder(f"{run.out}{query}").vit.state_dict()
        expected = layergraft.load_encoder(run.out / "stages" / same).vit.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items()), query


@pytest.mark.parametrize(
    ("data", "mean", "std", "words"),
    [
        ({}, 0.4, 0.2, "mean 0.4 and std 0.2, as {start} was trained, not with mean 0.5 and std 0.25 of the source"),
        ({"data.mean": [0.5]}, 0.5, 0.2, "as `data` says; {start} was trained with mean 0.4 and std 0.2"),
        ({"data.source": "builtin:fashion-canvas?std=0.25"}, 0.4, 0.25, "as `data` says; {start} was trained with"),
        ({"data.mean": [0.4], "data.std": [0.2]}, 0.4, 0.2, ""),
    ],
)
def test_statistics_belong_to_the_weights(
    data: dict[str, Any], mean: float, std: float, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_recipe("fashion_paper", TINY).encoder
    save_encoder(create_encoder(config, 3, (0.4,), (0.2,)), tmp_path / "start", {})
    statistics = [tuple(data.get(f"data.{key}", [default])) for key, default in (("mean", 0.5), ("std", 0.25))]
    encoder = first_encoder(load_recipe("fashion_paper", TINY | data | {"start": str(tmp_path / "start")}), *statistics)
    assert (encoder.mean, encoder.std) == ((mean,), (std,))
    stderr = capsys.readouterr().err
    assert words.format(start=tmp_path / "start") in stderr
    assert ("normalised" in stderr) == bool(words)


@pytest.mark.parametrize(
    ("rows", "mean", "is_announced"), [("*", 0.4, True), ("blocks.*", 0.4, False), ("*", 0.5, False)]
)
def test_other_statistics_of_a_plan_source_are_said(
    rows: str, mean: float, is_announced: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run has one mean and one standard deviation, which the patch embedding sees."""
    recipe = load_recipe("fashion_paper", TINY | {"stages.mae.plan.source": {rows: str(tmp_path / "donor")}})
    save_encoder(create_encoder(recipe.encoder, 3, (mean,), (0.25,)), tmp_path / "donor", {})
    like = create_encoder(recipe.encoder, 0, (0.5,), (0.25,))
    Donors(recipe=recipe, stage="mae", like=like, before=None).load(str(tmp_path / "donor"))
    assert ("was trained with mean 0.4 and std 0.25; stage mae has mean 0.5" in capsys.readouterr().err) == is_announced
