"""Files, directories and models of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from foreign_files import NAMES, below, images, random_weights
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import checkpoint_filter_fn

from layergraft import load_encoder
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import open_checkpoint, save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

BACKBONE = below(random_weights(NAMES["dino"]["teacher"], 1), "backbone.")  # timm's names


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 2, "init_values": 0.1, "qk_norm": True, "qkv_bias": False, "pre_norm": True},
        {"global_pool": "avg"},  # fine-tuned MAE: a norm after the mean of the patches
    ],
)
def test_timm_files(arguments: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch16_224", depth=2, num_classes=5, **arguments).eval()
    file = tmp_path / f"model.{suffix}"
    (torch.save if suffix == "pth" else save_file)(theirs.state_dict(), file)
    # A norm in front of the blocks is the mark of CLIP, whose eps is another.
    checkpoint = open_checkpoint(f"{file}?norm_eps=1e-6" if "pre_norm" in arguments else file)
    with torch.no_grad():
        features = checkpoint.encoder(images())
        assert_close(features, theirs.forward_head(theirs.forward_features(images()), pre_logits=True))
    assert checkpoint.classifier.keys() == {"weight", "bias"}
    logits = features @ checkpoint.classifier["weight"].T + checkpoint.classifier["bias"]
    assert_close(logits.detach(), theirs(images()).detach())


@pytest.mark.parametrize(("name", "eps"), [("vit_base_patch16_clip_224", 1e-5), ("vit_base_patch16_224", 1e-6)])
def test_what_a_file_of_timm_does_not_tell_is_said(name: str, eps: float, tmp_path: Path) -> None:
    """Weights so small that eps counts; what was loaded can be saved."""
    theirs = timm.create_model(name, img_size=32, embed_dim=192, num_heads=3, depth=2, num_classes=0).eval()
    with torch.no_grad():
        theirs.patch_embed.proj.weight *= 1e-2
        theirs.pos_embed *= 1e-2
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    checkpoint = open_checkpoint(tmp_path / "file.pth")
    notes = " ".join(checkpoint.notes)
    assert f"LayerNorm's eps {eps:g} is assumed" in notes
    assert "Block with GELU is assumed" in notes
    save_encoder(checkpoint.encoder, tmp_path / "saved", {})
    with torch.no_grad():
        assert_close(checkpoint.encoder(images(32)), theirs(images(32)))
        assert_close(load_encoder(tmp_path / "saved")(images(32)), theirs(images(32)))


def test_each_encoder_has_its_own_classifier(tmp_path: Path) -> None:
    heads = {name: {"head.weight": torch.full((3, 384), value)} for name, value in (("model", 1.0), ("ema", 2.0))}
    torch.save(
        {"state_dict": BACKBONE | heads["model"], "state_dict_ema": BACKBONE | heads["ema"]}, tmp_path / "file.pth"
    )
    for name, value in (("model", 1.0), ("ema", 2.0)):
        checkpoint = open_checkpoint(f"{tmp_path / 'file.pth'}?encoder={name}")
        assert torch.equal(checkpoint.classifier["weight"], torch.full((3, 384), value))


def test_directories_of_timm(tmp_path: Path) -> None:
    """timm writes an image's size as two numbers, and a pickle where it is asked to."""
    torch.manual_seed(0)
    theirs = timm.create_model("vit_small_patch16_224", depth=2, num_classes=3, img_size=32).eval()
    for serialization in (True, False):
        folder = tmp_path / str(serialization)
        save_for_hf(theirs, folder, model_config={"label_names": ["a", "b", "c"]}, safe_serialization=serialization)
        checkpoint = open_checkpoint(folder)
        assert checkpoint.classes == ("a", "b", "c")
        assert checkpoint.classifier.keys() == {"weight", "bias"}
        with torch.no_grad():
            assert_close(
                checkpoint.encoder(images(32)),
                theirs.forward_head(theirs.forward_features(images(32)), pre_logits=True),
            )


def test_models_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights come from the hub; here what a fresh model has stands for them."""
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=True).eval()
    torch.manual_seed(0)
    checkpoint = open_checkpoint("timm:vit_tiny_patch16_224")
    assert checkpoint.notes == ()
    assert not any("head" in name for name in checkpoint.encoder.state_dict())
    with torch.no_grad():
        features = checkpoint.encoder(images())
        assert_close(features @ checkpoint.classifier["weight"].T + checkpoint.classifier["bias"], theirs(images()))
    with pytest.raises(UserError, match="'teacher'"):
        open_checkpoint("timm:vit_tiny_patch16_224?encoder=teacher")
    pooling = open_checkpoint("timm:vit_base_patch16_siglip_224")
    assert not pooling.classifier
    assert "attention pooling is not part" in pooling.notes[0]


RMS = ["aimv2_large_patch14_224", "vit_base_patch16_xp_224", "vit_dpwee_patch16_reg1_gap_256"]


@pytest.mark.parametrize("name", RMS)
def test_models_with_rms_norm_go_out_and_in(name: str, tmp_path: Path) -> None:
    """In one of them norms of both kinds lie side by side, each with an eps of its own."""
    config = EncoderConfig(name=name, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    encoder = create_encoder(config, 0).eval()
    save_encoder(encoder, tmp_path, {})
    larger = timm.create_model(name, **(encoder.model_args | {"img_size": 48, "num_classes": 0})).eval()
    weights = checkpoint_filter_fn(dict(encoder.vit.state_dict()), larger)
    larger.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path)(images(32)), encoder(images(32)))
        assert_close(load_encoder(f"{tmp_path}?img_size=48&num_heads=2")(images(48)), larger(images(48)))
