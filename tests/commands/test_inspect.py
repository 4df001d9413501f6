"""What `layergraft inspect` says, against timm's model and torch's own count of operations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import FIXTURES
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.encoders.flops import forward_gflop
from layergraft.encoders.vit import create_encoder

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
    run = layergraft.train(recipe="fashion_tiny", out=tmp_path / "run", overrides=TINY | short)
    found = layergraft.inspect(checkpoint=str(run.out / "stages" / "1-graft"))
    assert found["encoders"] == ["online", "momentum"]
    assert found["heads"].keys() == {"projector", "predictor", "momentum.projector"}
    assert layergraft.inspect(checkpoint=str(run.out))["heads"] == found["heads"]  # a run is its last stage
    done = layergraft.export(encoder=run.out / "stages" / "0-mae", format="timm", out=tmp_path / "exported")
    assert "after stage **mae**" in (done.out / "MODEL_CARD.md").read_text()
    vit = timm.create_model(f"local-dir:{done.out}", pretrained=True)
    assert found["parameters"] == sum(parameter.numel() for parameter in vit.parameters())


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(name="vit_small_patch16_224", img_size=64),
        EncoderConfig(name="vit_small_patch16_224", img_size=64, reg_tokens=4, in_chans=1, patch_size=8, mlp_ratio=3),
        EncoderConfig(name="vit_small_patch16_224", img_size=64, stem="conv"),
        EncoderConfig(name="vit_giant_patch14_dinov2", img_size=56, embed_dim=48, num_heads=4, depth=2),
    ],
)
def test_gflop_as_torch_counts_them(config: EncoderConfig) -> None:
    encoder = create_encoder(config, 0).eval()
    images = torch.zeros(1, config.in_chans, config.img_size, config.img_size)
    counter = FlopCounterMode(display=False)
    for block in encoder.vit.blocks:
        block.attn.fused_attn = False  # torch does not count the fused kernel on every device
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        encoder.vit(images)
    assert forward_gflop(encoder) == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)


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
