"""The rows of docs/weights.md: files of the shape of released encoders, two blocks, made by the library named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from library_files import assert_reads, images, perturbed, save
from test_big_vision import flax_names
from timm.models import save_for_hf
from torch import Tensor

DOCS = Path(__file__).parents[3] / "docs" / "weights.md"
Made = tuple[Path, Tensor, Tensor]
"""An ENC without its options, images, and the tokens behind the final norm or the feature, by their dimensions."""


def by_timm(name: str, folder: Path, *, directory: bool = False, **arguments: Any) -> Made:
    model = perturbed(timm.create_model(name, depth=2, num_classes=0, **arguments), 0.02)
    pixels = images(model.patch_embed.img_size[0])
    if directory:
        save_for_hf(model, folder / "dir", model_args=arguments | {"depth": 2})
        return folder / "dir", pixels, model.forward_features(pixels)
    return save({"model": model.state_dict()}, folder / "file.pth"), pixels, model.forward_features(pixels)


def by_transformers(kind: str, folder: Path, **arguments: Any) -> Made:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(num_hidden_layers=2, **arguments)
    model = perturbed(getattr(transformers, f"{kind}Model")(config), 0.02)
    model.save_pretrained(folder / "dir")
    pixels = images(config.image_size)
    more: dict[str, Any] = {}
    if kind == "ViTMAE":
        model.embeddings.config.mask_ratio = 0.0
        more["noise"] = torch.arange((config.image_size // config.patch_size) ** 2).expand(2, -1).float()
    output = model(pixels, **more)
    return folder / "dir", pixels, output.pooler_output if kind == "CLIPVision" else output.last_hidden_state


def by_torchvision(folder: Path) -> Made:
    from torchvision.models import VisionTransformer

    model = perturbed(VisionTransformer(224, 16, 2, 12, 768, 3072), 0.02)
    pixels = images(224)
    front = model.class_token.expand(2, -1, -1)
    tokens = model.encoder(torch.cat([front, model._process_input(pixels)], dim=1))
    return save(model, folder / "file.pth"), pixels, tokens


def by_big_vision(folder: Path) -> Made:
    model = perturbed(timm.create_model("vit_base_patch16_224", depth=2, num_classes=0), 0.02)
    np.savez(folder / "file.npz", **flax_names(model, True))
    return folder / "file.npz", images(224), model.forward_features(images(224))


# row of the page -> how its file is made
ROWS: dict[str, Callable[[Path], Made]] = {
    "MAE ViT-B/16": lambda f: by_timm("vit_base_patch16_224", f),
    "facebook/vit-mae-base": lambda f: by_transformers("ViTMAE", f),
    "facebook/dinov2-base": lambda f: by_transformers("Dinov2", f, image_size=518),
    "facebook/dinov2-giant": lambda f: by_transformers(
        "Dinov2", f, image_size=224, hidden_size=1536, num_attention_heads=24, use_swiglu_ffn=True
    ),
    "facebook/dinov2-with-registers-base": lambda f: by_transformers(
        "Dinov2WithRegisters", f, image_size=518, patch_size=14
    ),
    "facebook/vit-msn-small": lambda f: by_transformers(
        "ViTMSN", f, hidden_size=384, num_attention_heads=6, intermediate_size=1536
    ),
    "facebook/ijepa_vith14_1k": lambda f: by_transformers(
        "IJepa", f, hidden_size=1280, num_attention_heads=16, intermediate_size=5120, patch_size=14
    ),
    "openai/clip-vit-base-patch16": lambda f: by_transformers("CLIPVision", f, patch_size=16),
    "google/siglip-base-patch16-224": lambda f: by_transformers("SiglipVision", f),
    "torchvision `vit_b_16`": by_torchvision,
    "AugReg `.npz`, B/16": by_big_vision,
    "UNI": lambda f: by_timm("vit_large_patch16_224", f, init_values=1e-5),
    "H-optimus-0": lambda f: by_timm(
        "vit_giant_patch14_reg4_dinov2", f, directory=True, img_size=224, init_values=1e-5
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_a_file_of_the_released_shape(row: str, tmp_path: Path) -> None:
    assert f"| {row} |" in DOCS.read_text()
    torch.manual_seed(0)
    address, pixels, expected = ROWS[row](tmp_path)
    pair = (expected, None) if expected.ndim == 3 else (None, expected)
    assert_reads(address, pixels, *pair)
