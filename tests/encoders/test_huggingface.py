"""Directories that transformers itself wrote, against its own models; and the names its modules have in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, assert_close
from safetensors.torch import save_file

import layergraft
from layergraft.encoders.checkpoint import load_heads, open_checkpoint
from layergraft.errors import UserError
from layergraft.objectives.mae_decoder import MaeDecoder

transformers = pytest.importorskip("transformers")

NAMES = json.loads((FIXTURES / "formats.json").read_text())["huggingface"]
SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
SHAPE |= {"image_size": 32, "patch_size": 8}
DECODER = {"decoder_hidden_size": 32, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 2}


def spread(model: Any) -> Any:
    """Fresh tokens and biases are zero and would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position" not in name and "pos_embed" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def build(kind: str, **changes: Any) -> Any:
    mae = kind == "ViTMAEForPreTraining"
    config = transformers.ViTMAEConfig if mae else transformers.ViTConfig
    arguments = SHAPE | (DECODER | {"decoder_intermediate_size": 64} if mae else {}) | changes
    return spread(getattr(transformers, kind)(config(**arguments)))


@pytest.mark.parametrize("kind", ["ViTModel", "ViTMAEForPreTraining", "ViTForImageClassification"])
@pytest.mark.parametrize("eps", [1e-12, 1e-3])
@torch.no_grad()
def test_directories_of_transformers(kind: str, eps: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of heads and the eps of its LayerNorms are in the configuration; an eps of 1e-3 would be seen."""
    model = build(kind, layer_norm_eps=eps)
    model.save_pretrained(tmp_path / "dir")
    (tmp_path / "dir" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    vit = getattr(model, "vit", model)
    if kind == "ViTMAEForPreTraining":
        vit.embeddings.config.mask_ratio = 0.0
        noise = torch.arange(16).expand(2, -1).float()  # the patches stay in order
        expected = vit(images(), noise=noise).last_hidden_state[:, 0]
    else:
        expected = vit(images()).last_hidden_state[:, 0]
    encoder = layergraft.load_encoder(tmp_path / "dir")
    assert "Hugging Face ViT" in capsys.readouterr().err
    assert encoder.mean == (0.5, 0.5, 0.5)
    assert_close(encoder(images()), expected)
    assert_close(layergraft.load_encoder(tmp_path / "dir" / "model.safetensors")(images()), expected)


@torch.no_grad()
def test_decoder_of_vitmae(tmp_path: Path) -> None:
    """Our decoder's LayerNorms have MAE's eps."""
    model = build("ViTMAEForPreTraining", mask_ratio=0.75, layer_norm_eps=1e-6)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        heads = load_heads(path)
        assert heads.keys() == checkpoint.heads.keys()
        assert all(torch.equal(heads[name], value) for name, value in checkpoint.heads.items())
    decoder = MaeDecoder(48, (4, 4), 8 * 8 * 3, embed_dim=32, depth=2, num_heads=2)
    for block in decoder.blocks:  # its MLP is as wide as this test's model says
        block.mlp.fc1, block.mlp.fc2 = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    weights = {name.removeprefix("decoder."): value for name, value in checkpoint.heads.items()}
    decoder.load_state_dict(weights)
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(2))
    output = model(images(), noise=noise)
    keep = noise.argsort(dim=1)[:, :4]
    encoder = checkpoint.encoder
    latent = encoder.norm(encoder.run_blocks(encoder.tokens(images(), keep))[0])
    assert_close(decoder.eval()(latent, keep), output.logits)


@torch.no_grad()
def test_classifier(tmp_path: Path) -> None:
    model = build("ViTForImageClassification", id2label=dict(enumerate("abcde")))
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.classes == ("a", "b", "c", "d", "e")
    logits = checkpoint.encoder(images()) @ checkpoint.classifier["weight"].T + checkpoint.classifier["bias"]
    assert_close(logits, model(images()).logits)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTMAEForPreTraining"])
@torch.no_grad()
def test_names_in_memory(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recorded names, ViT-S wide, in a file without configuration: heads and eps are assumed, and said."""
    model = build(kind, hidden_size=384, num_attention_heads=6, intermediate_size=1536, image_size=224, patch_size=16)
    weights = {name: value.contiguous() for name, value in getattr(model, "vit", model).state_dict().items()}
    prefix = "vit." if kind == "ViTMAEForPreTraining" else ""
    weights = {prefix + name: value for name, value in weights.items()}
    recorded = {name: tuple(shape) for name, shape in NAMES[kind].items()}
    backbone = {name: shape for name, shape in recorded.items() if not name.startswith("decoder")}
    assert backbone == {name: tuple(value.shape) for name, value in weights.items() if "pooler" not in name}
    decoder = {name: torch.zeros(shape) for name, shape in recorded.items() if name not in backbone}
    save_file(weights | decoder, tmp_path / "model.safetensors")
    encoder = layergraft.load_encoder(tmp_path / "model.safetensors")
    printed = capsys.readouterr().err
    assert "num_heads 6 is assumed" in printed
    assert "eps 1e-12 is assumed" in printed
    vit = getattr(model, "vit", model)
    if prefix:
        vit.embeddings.config.mask_ratio = 0.0
        expected = vit(images(224), noise=torch.arange(196).expand(2, -1).float()).last_hidden_state[:, 0]
    else:
        expected = vit(images(224)).last_hidden_state[:, 0]
    assert_close(encoder(images(224)), expected)


def test_other_models_are_refused(tmp_path: Path) -> None:
    refused: list[tuple[dict[str, object], str]] = [
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"hidden_act": ["gelu"]}, "activation \\['gelu'\\]"),
        ({"model_type": "deit"}, "'deit'"),
    ]
    for changes, message in refused:
        build("ViTModel").save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            layergraft.load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"num_attention_heads": "six"}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"num_attention_heads": 2.5}),
        ("config.json", {"layer_norm_eps": None}),
        ("config.json", {"id2label": ["a", "b"]}),
        ("config.json", {"id2label": {"a": "b"}}),
        ("preprocessor_config.json", {"image_std": None}),
        ("preprocessor_config.json", {"image_mean": [0.5, "grey", 0.5]}),
    ],
)
def test_damaged_configurations_are_named(file: str, changes: dict[str, Any], tmp_path: Path) -> None:
    build("ViTModel").save_pretrained(tmp_path)
    content = json.loads((tmp_path / file).read_text()) if (tmp_path / file).is_file() else {}
    (tmp_path / file).write_text(json.dumps(content | changes))
    with pytest.raises(UserError, match=re.escape(file)):
        layergraft.load_encoder(tmp_path)


def test_an_eps_that_timm_cannot_express_is_refused(tmp_path: Path) -> None:
    build("ViTModel").save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match="norm_eps=1e-06"):
        layergraft.export(encoder=tmp_path / "hf", format="timm", out=tmp_path / "timm")
    layergraft.export(encoder=f"{tmp_path / 'hf'}?norm_eps=1e-6", format="timm", out=tmp_path / "timm")
    layergraft.export(encoder=tmp_path / "hf", format="hf", out=tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-12
