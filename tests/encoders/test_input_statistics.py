"""Mean and standard deviation of an encoder: as its files say, as the ENC says, or assumed aloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import assert_close
from safetensors.torch import save_file

import layergraft
from layergraft.config.encoder import EncoderConfig
from layergraft.encoders.checkpoint import open_checkpoint, save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SHAPE |= {"image_size": 16, "patch_size": 8}


def hugging_face(folder: Path, channels: int = 3, **processor: Any) -> Any:
    """A ViT of transformers with its image processor -> the processor."""
    transformers = pytest.importorskip("transformers")
    transformers.ViTModel(transformers.ViTConfig(**SHAPE, num_channels=channels)).save_pretrained(folder)
    theirs = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, **processor)
    theirs.save_pretrained(folder)
    return theirs


def change(file: Path, section: str | None, **values: Any) -> None:
    content = json.loads(file.read_text())
    (content[section] if section else content).update(values)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "processor",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 0.9, 0.8]},
        {"rescale_factor": 1.0, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    ],
)
def test_input_is_that_of_the_image_processor(processor: dict[str, Any], tmp_path: Path) -> None:
    theirs = hugging_face(tmp_path, **processor)
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = theirs(levels, return_tensors="pt", do_resize=False)["pixel_values"][0].float()
    checkpoint = open_checkpoint(tmp_path)
    encoder = checkpoint.encoder
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.mean, encoder.std))
    ours = (torch.from_numpy(levels).permute(2, 0, 1) / 255 - mean) / std
    assert_close(ours, expected, 1e-5)
    assert any("Its image processor has" in note for note in checkpoint.notes) == bool(processor)
    assert not any("ImageNet" in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    "values",
    [
        {"do_normalize": "yes"},
        {"do_rescale": None},
        {"rescale_factor": "1/255"},
        {"rescale_factor": 0},
        {"image_std": [0.0, 0.5, 0.5]},
        {"image_mean": [True, 0.5, 0.5]},
        {"image_mean": [0.5, 0.5, float("nan")]},
    ],
)
def test_settings_of_a_processor_that_are_none_are_named(values: dict[str, Any], tmp_path: Path) -> None:
    hugging_face(tmp_path)
    change(tmp_path / "preprocessor_config.json", None, **values)
    with pytest.raises(UserError, match=next(iter(values))):
        open_checkpoint(tmp_path)


def bare_file(folder: Path, channels: int = 3) -> str:
    vit = timm.create_model(
        "vit_small_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, in_chans=channels
    )
    save_file(vit.state_dict(), folder / "file.safetensors")
    return f"{folder / 'file.safetensors'}?num_heads=2"


@pytest.mark.parametrize(("channels", "mean"), [(3, "0.485, 0.456, 0.406"), (1, "0.449"), (2, "0.449, 0.449")])
def test_what_is_assumed_is_said(channels: int, mean: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = bare_file(tmp_path, channels)
    layergraft.load_encoder(file)
    printed = capsys.readouterr().err
    assert f"mean {mean} and std 0.2" in printed
    assert "ImageNet's" in printed
    layergraft.load_encoder(f"{file}&mean=0.3")
    printed = capsys.readouterr().err
    assert "mean" not in printed.partition("ImageNet's")[2].partition("are assumed")[0]
    assert "std" in printed.partition("ImageNet's")[2]
    encoder = layergraft.load_encoder(f"{file}&mean=0.3&std=0.2")
    assert (encoder.mean, encoder.std) == ((0.3,) * channels, (0.2,) * channels)
    assert "ImageNet" not in capsys.readouterr().err


def test_a_directory_without_a_processor_says_what_is_assumed(tmp_path: Path) -> None:
    hugging_face(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert any("ImageNet's mean 0.485, 0.456, 0.406" in note for note in open_checkpoint(tmp_path).notes)


def test_an_option_wins_over_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EncoderConfig(name="vit_small_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    save_encoder(create_encoder(config, 0), tmp_path / "ours", {})
    hugging_face(tmp_path / "theirs")
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    for address in (tmp_path / "ours", tmp_path / "theirs", "timm:vit_tiny_patch16_224"):
        checkpoint = open_checkpoint(f"{address}?mean=0.1,0.2,0.3&std=0.4,0.5,1")
        assert checkpoint.encoder.mean == (0.1, 0.2, 0.3)
        assert checkpoint.encoder.std == (0.4, 0.5, 1)


@pytest.mark.parametrize(
    "query",
    ["mean=", "mean=grey", "mean=1.5", "mean=-0.1", "mean=nan", "mean=0.1,,0.2", "std=0", "std=2", "mean=0.1,0.2"],
)
def test_options_that_do_not_fit_are_refused(query: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=query.partition("=")[0]):
        open_checkpoint(f"{bare_file(tmp_path)}&{query}")


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_three_numbers_on_one_channel(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As transformers' image processor and timm's configuration have them, whatever the model's channels."""
    hugging_face(tmp_path / "hf", 1)
    config = EncoderConfig(
        name="vit_small_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, in_chans=1
    )
    save_encoder(create_encoder(config, 0), tmp_path / "timm", {})
    change(tmp_path / "timm" / "config.json", "pretrained_cfg", mean=[0.485, 0.456, 0.406], std=[0.2, 0.2, 0.2])
    with pytest.raises(UserError, match=r"mean of .* has 3 numbers, but its encoder 1 channel\."):
        open_checkpoint(tmp_path / "timm")
    for encoder in (tmp_path / "hf", f"{tmp_path / 'timm'}?mean=0.4&std=0.2"):
        data = "builtin:fashion-canvas?fraction=0.002"
        if command == "embed":
            layergraft.embed(encoder=str(encoder), data=data, out=str(tmp_path / "features.parquet"))
        else:
            layergraft.evaluate(encoder=str(encoder), data=data, test=data, protocols=["knn"])
    assert "mean, 3 times 0.5, is used for its 1 channel" in capsys.readouterr().err


def test_an_option_keeps_the_encoder_s_directory_as_it_is(tmp_path: Path) -> None:
    """`?mean` is of the ENC: what is exported has it."""
    bare = bare_file(tmp_path)
    layergraft.export(encoder=f"{bare}&mean=0.1&std=0.2", format="timm", out=str(tmp_path / "out"))
    assert layergraft.load_encoder(tmp_path / "out").mean == (0.1, 0.1, 0.1)
