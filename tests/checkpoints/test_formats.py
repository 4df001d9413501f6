"""Each foreign format: a file with that format's names, and its features computed with timm by hand."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import FIXTURES, assert_close
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from layergraft import load_encoder
from layergraft.checkpoints.encoder import open_checkpoint, save_encoder
from layergraft.config import EncoderConfig
from layergraft.errors import UserError
from layergraft.models.vit import create_encoder

Weights = dict[str, Tensor]
NAMES = json.loads((FIXTURES / "formats.json").read_text())


def random_weights(shapes: dict[str, list[int]], seed: int = 0) -> Weights:
    """Weights of the size of trained ones: norms near 1, all else small, nothing zero."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 0.05
        found[name] = value + 1 if "norm" in name and name.endswith("weight") else value
    return found


def images(size: int = 224) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))


def timm_features(weights: Weights, size: int = 224, **arguments: Any) -> Tensor:
    """What timm's ViT-S with two blocks and 6 heads gives with weights that must fit it exactly."""
    settings = {"depth": 2, "num_heads": 6, "num_classes": 0, "img_size": size} | arguments
    vit = timm.create_model("vit_small_patch16_224", **settings).eval()
    vit.load_state_dict(weights)
    with torch.no_grad():
        features: Tensor = vit(images(size))
    return features


def below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def with_prefix(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


BACKBONE = below(random_weights(NAMES["dino"]["teacher"], 1), "backbone.")  # timm's names
TRAINING = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": argparse.Namespace(arch="vit_small")}


def dino() -> dict[str, Any]:
    teacher, student = (random_weights(NAMES["dino"]["teacher"], seed) for seed in (1, 2))
    return {
        "teacher": teacher,
        "student": with_prefix(student, "module."),
        "dino_loss": {"center": torch.zeros(1, 4)},
    } | TRAINING


def ibot() -> dict[str, Any]:
    sides = [
        random_weights({f"backbone.{k}": v for k, v in NAMES["ibot"]["state_dict"].items()}, seed) for seed in (1, 2)
    ]
    head = {"head.last_layer2.weight_v": torch.ones(4, 4)}
    return {
        "teacher": sides[0] | head,
        "student": with_prefix(sides[1] | head, "module."),
        "fp16_scaler": None,
    } | TRAINING


def ijepa() -> dict[str, Any]:
    target, context = (random_weights(NAMES["ijepa"]["target_encoder"], seed) for seed in (1, 2))
    numbers = {"loss": np.float64(0.3), "batch_size": 2048, "world_size": 16, "lr": np.float32(1e-3), "scaler": {}}
    return {
        "encoder": context,
        "target_encoder": target,
        "predictor": {"module.mask_token": torch.zeros(3)},
        "opt": {},
    } | numbers


def moco(seed: int = 1) -> dict[str, Any]:
    sides = {
        "base_encoder": BACKBONE,
        "momentum_encoder": {name: value * 1.1 for name, value in BACKBONE.items()},
        "predictor": {"0.weight": torch.ones(4, 4)},
    }
    state = {f"module.{side}.{name}": value for side, weights in sides.items() for name, value in weights.items()}
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {}, "scaler": {}}


REFINER = random_weights(NAMES["mim_refiner"]["state_dict"], 4)


def refiner_features() -> Tensor:
    """Position by position: patches get theirs, then the class token, without one, is put in front."""
    own = {name: value for name, value in REFINER.items() if not name.startswith(("pos_embed", "cls_tokens"))}
    vit = timm.create_model("vit_small_patch16_224", depth=2, num_classes=0).eval()
    vit.load_state_dict(own, strict=False)
    with torch.no_grad():
        patches = vit.patch_embed(images()) + REFINER["pos_embed.embed"].reshape(1, 196, 384)
        tokens = torch.cat([REFINER["cls_tokens.tokens"].expand(2, -1, -1), patches], dim=1)
        features: Tensor = vit.norm(vit.blocks(tokens))[:, 0]
    return features


def without(weights: Weights, *names: str) -> Weights:
    return {name: value for name, value in weights.items() if name not in names}


def ijepa_features(key: str) -> Tensor:
    return timm_features(below(ijepa()[key], "module."), class_token=False, global_pool="avg", fc_norm=False)


IBOT = random_weights(NAMES["ibot"]["state_dict"], 3)
DECODER = {
    "mask_token": torch.zeros(1, 1, 8),
    "decoder_pos_embed": torch.zeros(1, 197, 8),
    "decoder_pred.bias": torch.zeros(3),
}
# format -> (content of the file, options, what is said of it, features by timm)
CASES: dict[str, tuple[Any, str, str, Any]] = {
    "mae": ({"model": BACKBONE}, "", "timm's names", lambda: timm_features(BACKBONE)),
    "mae with decoder": (
        {"model": BACKBONE | DECODER} | TRAINING,
        "",
        "MAE with decoder",
        lambda: timm_features(BACKBONE),
    ),
    "moco v3": (moco(), "", "MoCo v3", lambda: timm_features(BACKBONE)),
    "moco v3, 12 heads": (moco(), "?num_heads=12", "12 heads", lambda: timm_features(BACKBONE, num_heads=12)),
    "moco v3 momentum": (
        moco(),
        "?encoder=momentum",
        "encoder `momentum`",
        lambda: timm_features({name: value * 1.1 for name, value in BACKBONE.items()}),
    ),
    "dino teacher": (dino(), "", "encoder `teacher`", lambda: timm_features(below(dino()["teacher"], "backbone."))),
    "dino student": (
        dino(),
        "?encoder=student",
        "encoder `student`",
        lambda: timm_features(below(dino()["student"], "module.backbone.")),
    ),
    "dino backbone": (BACKBONE, "", "DINO", lambda: timm_features(BACKBONE)),
    "ibot teacher": (
        ibot(),
        "",
        "iBOT training",
        lambda: timm_features(without(below(ibot()["teacher"], "backbone."), "masked_embed")),
    ),
    "ibot student": (
        ibot(),
        "?encoder=student",
        "iBOT training",
        lambda: timm_features(without(below(ibot()["student"], "module.backbone."), "masked_embed")),
    ),
    "ibot backbone": ({"state_dict": IBOT}, "", "iBOT backbone", lambda: timm_features(without(IBOT, "masked_embed"))),
    "i-jepa": (ijepa(), "", "I-JEPA, encoder `target`", lambda: ijepa_features("target_encoder")),
    "i-jepa context": (ijepa(), "?encoder=context", "encoder `context`", lambda: ijepa_features("encoder")),
    "mim-refiner": ({"state_dict": REFINER}, "", "MIM-Refiner", refiner_features),
    "mim-refiner flat": (REFINER, "", "MIM-Refiner", refiner_features),
    "timm with average": (
        {"state_dict": IBOT, "state_dict_ema": BACKBONE, "epoch": 1},
        "?encoder=ema",
        "encoder `ema`",
        lambda: timm_features(BACKBONE),
    ),
    "half precision": (
        {"model": {name: value.half() for name, value in BACKBONE.items()}},
        "",
        "half precision were widened",
        lambda: timm_features({name: value.half().float() for name, value in BACKBONE.items()}),
    ),
    "data parallel": (
        {"state_dict": with_prefix(BACKBONE, "module.")},
        "",
        "timm's names",
        lambda: timm_features(BACKBONE),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_timm(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, options, said, expected = CASES[case]
    torch.save(content, tmp_path / "file.pth")
    encoder = load_encoder(f"{tmp_path / 'file.pth'}{options}")
    printed = capsys.readouterr().err
    assert said in printed
    assert ("num_heads 6 is assumed" in printed) == ("num_heads" not in options)
    with torch.no_grad():
        assert_close(encoder(images()), expected())


def dinov2_weights(registers: bool) -> Weights:
    weights = random_weights(NAMES["dinov2"][""], 5)
    return weights if registers else without(weights, "register_tokens")


@pytest.mark.parametrize("registers", [True, False])
@pytest.mark.parametrize("size", [518, 224])
def test_dinov2(registers: bool, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm reads DINOv2's own files; at 224 px both resize the positions of 518."""
    weights = dinov2_weights(registers)
    torch.save(weights, tmp_path / "dinov2.pth")
    encoder = load_encoder(f"{tmp_path / 'dinov2.pth'}?img_size={size}")
    printed = capsys.readouterr().err
    assert "DINOv2" in printed
    assert ("pos_embed was resized from 37×37 to 16×16" in printed) == (size == 224)
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    theirs = timm.create_model(name, img_size=size, depth=2, num_classes=0).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
    with torch.no_grad():
        assert_close(encoder(images(size)[:1]), theirs(images(size)[:1]))


def test_dinov2_gated_mlp(tmp_path: Path) -> None:
    """The names of DINOv2's giant, narrow: w12 and w3 in place of fc1 and fc2."""
    weights = without(
        dinov2_weights(False),
        *(f"blocks.{i}.mlp.fc{j}.{p}" for i in (0, 1) for j in (1, 2) for p in ("weight", "bias")),
    )
    shapes = {"w12.weight": [2048, 384], "w12.bias": [2048], "w3.weight": [384, 1024], "w3.bias": [384]}
    weights |= random_weights({f"blocks.{i}.mlp.{name}": shape for i in (0, 1) for name, shape in shapes.items()})
    torch.save(weights, tmp_path / "dinov2.pth")
    encoder = load_encoder(tmp_path / "dinov2.pth")
    theirs = timm.create_model(
        "vit_giant_patch14_dinov2", embed_dim=384, depth=2, num_heads=6, mlp_ratio=2048.1 / 384, num_classes=0
    ).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(weights), theirs))
    with torch.no_grad():
        assert_close(encoder(images(518)[:1]), theirs(images(518)[:1]))


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
    checkpoint = open_checkpoint(
        f"{file}?norm_eps=1e-6"
    )  # a norm in front of the blocks is the mark of CLIP, with 1e-5
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
    said = " ".join(checkpoint.notes)
    assert f"LayerNorm's eps {eps:g} is assumed" in said
    assert "Block with GELU is assumed" in said
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


def test_conv_stem_of_moco(tmp_path: Path) -> None:
    stem = create_encoder(EncoderConfig(name="vit_small_patch16_224", stem="conv", img_size=64, depth=2), 0).eval()
    state = with_prefix(stem.vit.state_dict(), "module.base_encoder.")
    torch.save({"arch": "vit_conv_small", "state_dict": state}, tmp_path / "conv.pth.tar")
    encoder = load_encoder(f"{tmp_path / 'conv.pth.tar'}?num_heads=6")
    with torch.no_grad():
        assert torch.equal(encoder(images(64)), stem(images(64)))


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


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("encoder=momentum", "teacher, student"),
        ("num_head=6", "num_heads"),
        ("num_heads=six", "whole number"),
        ("img_size=230", "multiple"),
        *((f"{key}={value}", "positive") for key in ("num_heads", "img_size") for value in ("0", "-6", "")),
        *((f"norm_eps={value}", "positive") for value in ("nan", "-1", "0", "inf")),
    ],
)
def test_options_that_do_not_fit(query: str, message: str, tmp_path: Path) -> None:
    torch.save(dino(), tmp_path / "dino.pth")
    with pytest.raises(UserError, match=message):
        load_encoder(f"{tmp_path / 'dino.pth'}?{query}")


def test_recorded_files_of_mae_and_moco() -> None:
    """Files of the original implementations, with the features they gave."""
    for folder, file in (("mae_tiny", "checkpoint.pth"), ("mocov3_tiny", "checkpoint.pth.tar")):
        expected = load_file(FIXTURES / folder / "expected.safetensors")
        encoder = load_encoder(f"{FIXTURES / folder / file}?num_heads=4")
        with torch.no_grad():
            if folder == "mae_tiny":
                assert_close(encoder(expected["images"]), expected["features_unmasked"][:, 0])
            else:
                assert_close(encoder(expected["x1"]), expected["features_base_x1"])
