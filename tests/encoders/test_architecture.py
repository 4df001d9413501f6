"""The grid of patches: told by a configuration or the user, or assumed and said; refused where nothing tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import assert_close
from foreign_files import images
from safetensors.torch import save_file
from test_foreign_formats import REFINER, dinov2_weights
from timm.models import save_for_hf

from layergraft import load_encoder
from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0, "patch_size": 8}


def tiny(size: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", img_size=size, **(TINY | arguments)).eval()


@pytest.mark.parametrize("size", [[16, 64], [64, 16]])
@pytest.mark.parametrize("kind", ["ViT", "ViTMAE"])
def test_image_size_of_transformers_counts(kind: str, size: list[int], tmp_path: Path) -> None:
    """2×8 patches are as many as 4×4."""
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = getattr(transformers, f"{kind}Config")(**shape, image_size=size, patch_size=8)
    theirs = getattr(transformers, f"{kind}Model")(config).eval()
    if kind == "ViTMAE":
        theirs.config.mask_ratio = 0.0
    theirs.save_pretrained(tmp_path)
    encoder, shown = load_encoder(tmp_path), torch.randn(2, 3, *size)
    assert encoder.grid == (size[0] // 8, size[1] // 8)
    with torch.no_grad():
        noise = {"noise": torch.arange(16.0).expand(2, -1)} if kind == "ViTMAE" else {}  # patches stay in order
        expected = theirs(shown, **noise).last_hidden_state
        tokens, _ = encoder.run_blocks(encoder.tokens(shown), rotation=encoder.rotation(shown))
        assert_close(encoder.norm(tokens), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"image_size": 64}, "64 patches|8×8"), ({"image_size": "wide"}, "image_size"), ({"patch_size": 0}, "patch_size")],
)
def test_image_size_that_does_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    transformers.ViTModel(transformers.ViTConfig(**shape, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    assert not any("assumed: a file" in note for note in open_checkpoint(tmp_path).notes)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path)


def test_a_square_grid_is_assumed_aloud(tmp_path: Path) -> None:
    save_file(tiny((32, 32)).state_dict(), tmp_path / "file.safetensors")
    assert any(
        "Square images (4×4 patches) are assumed" in n
        for n in open_checkpoint(f"{tmp_path}/file.safetensors?num_heads=2").notes
    )


@torch.no_grad()
def test_wide_images(tmp_path: Path) -> None:
    """A directory tells them, of a file the user does; 2×8 patches are as many as 4×4."""
    theirs, shown = tiny((16, 64)), torch.randn(2, 3, 16, 64)
    save_for_hf(theirs, tmp_path / "arguments", model_args=TINY | {"img_size": [16, 64]})
    save_file(theirs.state_dict(), tmp_path / "file.safetensors")
    for encoder in (tmp_path / "arguments", f"{tmp_path / 'file.safetensors'}?num_heads=2&img_size=16,64"):
        assert_close(load_encoder(encoder)(shown), theirs(shown))
    larger = load_encoder(f"{tmp_path / 'arguments'}?img_size=32,64")
    assert larger.grid == (4, 8)
    assert_close(larger(images(64)[:, :, :32]), load_encoder(tmp_path / "arguments")(images(64)[:, :, :32]))


def test_patches_that_are_not_square_are_refused(tmp_path: Path) -> None:
    save_for_hf(
        tiny(32, patch_size=(8, 16)), tmp_path / "patch", model_args=TINY | {"img_size": 32, "patch_size": [8, 16]}
    )
    with pytest.raises(UserError, match="8×16"):
        load_encoder(tmp_path / "patch")


@pytest.mark.parametrize("no_embed_class", [True, False])
@torch.no_grad()
def test_registers_that_leave_the_grid_open_are_refused(no_embed_class: bool, tmp_path: Path) -> None:
    """Nine positions, five tokens: 3×3 patches, or 2×2 and a position for each token. timm's configuration tells."""
    arguments = {"reg_tokens": 4, "no_embed_class": no_embed_class}
    size = 24 if no_embed_class else 16
    theirs = tiny(size, **arguments)
    assert theirs.pos_embed.shape[1] == 9
    file = tmp_path / "file.safetensors"
    save_file(theirs.state_dict(), file)
    with pytest.raises(UserError, match=r"2×2 patches .* or 3×3"):
        load_encoder(f"{file}?num_heads=2")
    save_for_hf(theirs, tmp_path / "timm", model_args=TINY | arguments | {"img_size": size})
    assert_close(load_encoder(tmp_path / "timm")(images(size)), theirs(images(size)))


@pytest.mark.parametrize("no_embed_class", [True, False])
@torch.no_grad()
def test_registers_on_other_grids(no_embed_class: bool, tmp_path: Path) -> None:
    theirs = tiny(32, reg_tokens=4, no_embed_class=no_embed_class)
    save_file(theirs.state_dict(), tmp_path / "file.safetensors")
    assert_close(load_encoder(f"{tmp_path / 'file.safetensors'}?num_heads=2")(images(32)), theirs(images(32)))


def test_formats_that_know_it(tmp_path: Path) -> None:
    """DINOv2's registers have no position; MIM-Refiner's positions are an image."""
    weights = dinov2_weights(True)
    weights["pos_embed"] = weights["pos_embed"][:, :10]
    torch.save(weights, tmp_path / "dinov2.pth")
    assert load_encoder(tmp_path / "dinov2.pth").grid == (3, 3)
    wide = REFINER | {"pos_embed.embed": REFINER["pos_embed.embed"].reshape(1, 7, 28, 384)}
    torch.save(wide, tmp_path / "refiner.pth")
    assert load_encoder(tmp_path / "refiner.pth").grid == (7, 28)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("patch_embed.proj.weight", (24, 3, 1, 8, 8)),
        ("patch_embed.proj.weight", (24, 3, 8, 4)),
        ("pos_embed", (17, 24)),
        ("cls_token", (24,)),
        ("blocks.0.mlp.fc1.weight", (96,)),
    ],
)
def test_tensors_of_other_dimensions_are_named(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save(tiny(32).state_dict() | {key: torch.zeros(shape)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"shape \("):
        load_encoder(f"{tmp_path / 'file.pth'}?num_heads=2")
