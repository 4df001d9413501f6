"""Directories and files that transformers wrote, against its own forward; for its first ViTs see `test_huggingface`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from library_files import assert_reads, images, perturbed, said, save
from safetensors.torch import load_file, save_file

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.encoders.foreign_formats.transformers_config import MODELS as MODELS_BY_TYPE
from layergraft.errors import UserError

transformers = pytest.importorskip("transformers")

SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
WIDE = SHAPE | {"intermediate_size": 96}
DINO = SHAPE | {"mlp_ratio": 2}
# (model, what its configuration has besides the shape, what the format is called)
MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("ViTMSN", WIDE, "Hugging Face ViT,"),
    ("IJepa", WIDE, "Hugging Face ViT,"),
    ("Dinov2", DINO, "Hugging Face DINOv2,"),
    ("Dinov2", DINO | {"use_swiglu_ffn": True}, "Hugging Face DINOv2,"),
    ("Dinov2", DINO | {"qkv_bias": False, "layer_norm_eps": 1e-3}, "Hugging Face DINOv2,"),
    ("Dinov2WithRegisters", DINO | {"num_register_tokens": 3}, "Hugging Face DINOv2 with registers,"),
    ("Dinov2WithRegisters", DINO | {"use_swiglu_ffn": True}, "Hugging Face DINOv2 with registers,"),
]
CLIPS = [
    ("CLIPVision", {}, ""),
    ("CLIPVision", {"hidden_act": "gelu"}, "&act=gelu"),
    ("SiglipVision", {}, ""),
    ("SiglipVision", {"vision_use_head": False, "hidden_act": "gelu"}, "&act=gelu"),
]


def build(kind: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**arguments)
    return perturbed(getattr(transformers, f"{kind}Model")(config))


@pytest.mark.parametrize(("kind", "arguments", "called"), MODELS)
@torch.no_grad()
def test_vits(kind: str, arguments: dict[str, Any], called: str, tmp_path: Path) -> None:
    """As a directory, a file of the names on disk, and one of the names in memory."""
    model = build(kind, **arguments)
    model.save_pretrained(tmp_path / "dir")
    expected = model(images()).last_hidden_state
    assert called in assert_reads(tmp_path / "dir", images(), expected).notes[0]
    options = f"?num_heads=4&norm_eps={model.config.layer_norm_eps}"
    (tmp_path / "dir" / "model.safetensors").rename(tmp_path / "bare.safetensors")
    assert_reads(f"{tmp_path / 'bare.safetensors'}{options}", images(), expected)
    assert_reads(f"{save(model, tmp_path / 'memory.pth')}{options}", images(), expected)


@pytest.mark.parametrize("kind", ["ViTMSN", "IJepa", "Dinov2", "Dinov2WithRegisters"])
@torch.no_grad()
def test_classifiers(kind: str, tmp_path: Path) -> None:
    """DINOv2's takes the class token and the mean of the patches side by side: it is named, not used."""
    torch.manual_seed(0)
    arguments = DINO if "Dino" in kind else WIDE
    config = getattr(transformers, f"{kind}Config")(**arguments, id2label=dict(enumerate("abc")))
    model = perturbed(getattr(transformers, f"{kind}ForImageClassification")(config))
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    if "Dino" in kind:
        assert not checkpoint.classifier
        assert "classifier of another input than the feature" in said(checkpoint)
    else:
        weights = checkpoint.classifier
        assert_close(checkpoint.encoder(images()) @ weights["weight"].T + weights["bias"], model(images()).logits, 1e-4)


@pytest.mark.parametrize(("kind", "changes", "options"), CLIPS)
@torch.no_grad()
def test_towers_of_clip_and_siglip(kind: str, changes: dict[str, Any], options: str, tmp_path: Path) -> None:
    """transformers 5 leaves `vision_model.` out, versions 4 wrote it; the activation is in the configuration alone."""
    model = build(kind, **(WIDE | changes))
    model.save_pretrained(tmp_path / "dir")
    clip = kind == "CLIPVision"
    output = model(images())
    expected = None if clip else output.last_hidden_state  # CLIP's are in front of the last norm
    feature = output.pooler_output if clip else output.last_hidden_state.mean(dim=1)
    checkpoint = assert_reads(tmp_path / "dir", images(), expected, feature)
    assert "assumed" not in said(checkpoint).partition("ImageNet")[0]
    assert ("attention pooling" in said(checkpoint)) == (not clip and changes == {})
    weights = load_file(tmp_path / "dir" / "model.safetensors")
    for prefix in ("", "vision_model."):
        file = tmp_path / "file.safetensors"
        save_file({prefix + key: value for key, value in weights.items()}, file)
        checkpoint = assert_reads(f"{file}?num_heads=4{options}", images(), expected, feature)
        assert ("act=" in said(checkpoint)) == (not options)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
@torch.no_grad()
def test_the_image_tower_of_a_whole(kind: str, tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = build(kind, vision_config=WIDE, text_config=text | {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1})
    model.save_pretrained(tmp_path)
    output = model.vision_model(images())
    feature = output.pooler_output if kind == "CLIP" else output.last_hidden_state.mean(dim=1)
    assert "text tower" in said(assert_reads(tmp_path, images(), None, feature))


def test_an_activation_that_a_configuration_names_is_not_asked_for_again(tmp_path: Path) -> None:
    build("CLIPVision", **WIDE).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"act="):
        open_checkpoint(f"{tmp_path}?act=gelu")
    assert "QuickGELU" in type(open_checkpoint(f"{tmp_path}?act=quick_gelu").encoder.vit.blocks[0].mlp.act).__name__


@torch.no_grad()
def test_a_head_of_masked_patches_is_no_decoder_of_mae(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**WIDE, encoder_stride=8)
    model = perturbed(transformers.ViTForMaskedImageModeling(config))
    model.save_pretrained(tmp_path)
    checkpoint = assert_reads(tmp_path, images(), model.vit(images()).last_hidden_state)
    assert checkpoint.format == "Hugging Face ViT"
    assert not checkpoint.heads
    assert "head of masked patches (2 tensors)" in said(checkpoint)


def test_what_a_configuration_leaves_out_is_what_transformers_takes() -> None:
    """Its versions 4 write only what is not usual."""
    config = transformers.AutoConfig
    for kind, usual in MODELS_BY_TYPE.items():
        theirs = config.for_model(kind)
        theirs = theirs.vision_config if kind in ("clip", "siglip") else theirs
        stated = (theirs.num_attention_heads, theirs.layer_norm_eps, theirs.patch_size, theirs.hidden_act)
        assert stated == (usual.num_heads, usual.norm_eps, usual.patch_size, usual.activation), kind
        assert theirs.image_size == 224, kind


def test_networks_that_are_not_read_are_named(tmp_path: Path) -> None:
    for kind, reason in (("siglip2_vision_model", "siglip2"), ("vivit", "vivit"), ("deit", "deit")):
        build("CLIPVision", **WIDE).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": kind}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=reason):
            open_checkpoint(tmp_path)
    video = transformers.VivitModel(
        transformers.VivitConfig(**(WIDE | {"num_frames": 2, "tubelet_size": [2, 8, 8], "patch_size": 8}))
    )
    with pytest.raises(UserError, match=r"\(48, 3, 2, 8, 8\)|unknown"):
        open_checkpoint(f"{save(video, tmp_path / 'video.pth')}?num_heads=4")
