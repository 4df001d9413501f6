"""What `layergraft inspect` says, against timm's model and operations counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import FIXTURES
from torch import nn

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import Encoder, create_encoder

MAE = f"{FIXTURES / 'mae_tiny' / 'checkpoint.pth'}?num_heads=4"


def test_a_foreign_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MAE, "--json", "true"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded = torch.load(FIXTURES / "mae_tiny" / "checkpoint.pth", weights_only=True)["model"]
    encoder = {name: value for name, value in recorded.items() if "decoder" not in name and name != "mask_token"}
    assert found["format"] == "MAE with decoder"
    assert found["parameters"] == sum(value.numel() for value in encoder.values())
    sizes = {layer["name"]: layer["parameters"] for layer in found["layers"]}
    assert list(sizes) == ["patch_embed", "positions", "tokens", "blocks.0", "blocks.1", "blocks.2", "norm"]
    assert sizes["blocks.1"] == sum(value.numel() for name, value in encoder.items() if name.startswith("blocks.1."))
    assert found["heads"] == {"decoder": sum(value.numel() for value in recorded.values()) - found["parameters"]}
    assert (found["depth"], found["embed_dim"], found["num_heads"], found["img_size"]) == (3, 48, 4, 32)
    assert main(["inspect", MAE]) == 0
    assert "MAE with decoder" in capsys.readouterr().out


def test_a_stage_and_its_heads(tmp_path: Path) -> None:
    from conftest import TINY

    short = {"stages.mae.epochs": 0.1, "stages.graft.epochs": 0.1, "data.workers": 0, "evaluate": None}
    run = layergraft.train(recipe="fashion_paper", out=tmp_path / "run", overrides=TINY | short)
    found = layergraft.inspect(checkpoint=str(run.out / "stages" / "1-graft"))
    assert found["encoders"] == ["online", "momentum"]
    assert found["heads"].keys() == {"projector", "predictor", "momentum.projector"}
    assert layergraft.inspect(checkpoint=str(run.out))["heads"] == found["heads"]  # a run is its last stage
    done = layergraft.export(encoder=run.out / "stages" / "0-mae", format="timm", out=tmp_path / "exported")
    assert "after stage **mae**" in (done.out / "MODEL_CARD.md").read_text()
    vit = timm.create_model(f"local-dir:{done.out}", pretrained=True)
    assert found["parameters"] == sum(parameter.numel() for parameter in vit.parameters())


def gflop_by_hand(encoder: Encoder) -> float:
    """Convolutions by their outputs, linears by their tokens, two products of attention."""
    tokens = encoder.num_patches + encoder.prefix_tokens
    side, flop = encoder.img_size, 0
    for module in encoder.vit.patch_embed.modules():
        if isinstance(module, nn.Conv2d):
            side //= int(module.stride[0])
            flop += 2 * module.weight.numel() * side**2
    for block in encoder.vit.blocks:
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
        flop += sum(2 * linear.weight.numel() * tokens for linear in linears) + 4 * tokens**2 * encoder.embed_dim
    return flop / 1e9


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(name="vit_small_patch16_224", img_size=64),
        EncoderConfig(name="vit_small_patch16_224", img_size=64, reg_tokens=4, in_chans=1, patch_size=8, mlp_ratio=3),
        EncoderConfig(name="vit_small_patch16_224", img_size=64, stem="conv"),
        EncoderConfig(name="vit_giant_patch14_dinov2", img_size=56, embed_dim=48, num_heads=4, depth=2),
    ],
)
def test_gflop_by_hand(config: EncoderConfig, tmp_path: Path) -> None:
    encoder = create_encoder(config, 0)
    save_encoder(encoder, tmp_path, {})
    assert layergraft.inspect(checkpoint=str(tmp_path))["gflop"] == pytest.approx(gflop_by_hand(encoder), rel=1e-12)


@pytest.mark.parametrize("path", ["nowhere.pth", "."])
def test_nothing_there(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", path]) == 2


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import huggingface_hub.errors

    def offline(*arguments: object, **others: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    assert main(["inspect", "timm:vit_tiny_patch16_224"]) == 2
    assert "could not be fetched: no connection" in capsys.readouterr().err
    assert main(["inspect", "timm:vit_smal_patch16_224"]) == 2
    assert "vit_small_patch16_224" in capsys.readouterr().err
