"""Files of libraries that are not installed here, small ones that they saved, and what their own forward gave.

`tests/fixtures/foreign/record.py` made them: MONAI, terratorch, open_clip, stable-pretraining, beast, lightly-train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, assert_close
from library_files import assert_reads, said, save
from safetensors.torch import load_file
from torch import Tensor

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

Weights = dict[str, Tensor]


def recorded(name: str) -> tuple[Weights, Weights]:
    """(weights with the library's names, images and what its forward gave)."""
    content = load_file(FIXTURES / "foreign" / f"{name}.safetensors")
    weights = {key.removeprefix("weights/"): value for key, value in content.items() if key.startswith("weights/")}
    return weights, {key: value for key, value in content.items() if not key.startswith("weights/")}


# recording -> (options, what is said of the format, what is named as left aside)
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "monai_vit": ("", "MONAI ViT,", ("cross-attention that no block calls",)),
    "monai_classifier": ("", "MONAI ViT,", ("classifier",)),
    "monai_mae": ("", "MONAI MaskedAutoEncoderViT,", ("decoder of MONAI",)),
    "prithvi_1": ("", "Prithvi below `encoder.`", ("It is for 1 frame", "decoder", "embeddings of time and place")),
    "prithvi_4": ("", "Prithvi below `encoder.`", ("It is for 4 frames", "decoder")),
    "open_clip": ("", "CLIP (OpenAI, open_clip)", ("GELU is assumed", "text tower", "projection")),
    "open_clip_quick": ("&act=quick_gelu", "CLIP (OpenAI, open_clip)", ("Block with QuickGELU",)),
    "open_clip_timm": ("", "timm's names (timm, MAE, DINO, …) below `visual.trunk.`", ("visual.head", "text")),
    "stable_pretraining": (
        "",
        "below `model.encoder.vit.`",
        ("model.encoder.patch_embed (2 tensors)", "model.decoder"),
    ),
    "beast": ("", "Hugging Face ViTMAE below `vit_mae.`", ("heads.decoder", "proj", "temperature")),
    "lightly_train": ("", "below `teacher_embedding_model.wrapped_model._model.`", ("teacher_projection_head",)),
}


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    options, called, aside = CASES[name]
    weights, expected = recorded(name)
    file = save(weights, tmp_path / "file.pth")
    checkpoint = assert_reads(f"{file}?num_heads=2{options}", expected["images"], expected["tokens"])
    assert called in checkpoint.notes[0]
    assert all(words in said(checkpoint) for words in aside), said(checkpoint)
    with pytest.raises(UserError, match="surprise"):
        open_checkpoint(f"{save(weights | {'surprise.weight': torch.zeros(3)}, file)}?num_heads=2{options}")


def test_a_wrong_activation_is_seen(tmp_path: Path) -> None:
    """So that the option is worth its name."""
    weights, expected = recorded("open_clip_quick")
    with pytest.raises(AssertionError):
        assert_reads(f"{save(weights, tmp_path / 'file.pth')}?num_heads=2", expected["images"], expected["tokens"])


def test_classifier_of_monai(tmp_path: Path) -> None:
    weights, expected = recorded("monai_classifier")
    checkpoint = open_checkpoint(f"{save(weights, tmp_path / 'file.pth')}?num_heads=2")
    head = checkpoint.classifier
    logits = checkpoint.encoder(expected["images"]) @ head["weight"].T + head["bias"]
    assert_close(logits, expected["logits"], 1e-4)
    tanh = {key.replace("classification_head.", "classification_head.0."): value for key, value in weights.items()}
    checkpoint = open_checkpoint(f"{save(tanh, tmp_path / 'file.pth')}?num_heads=2")
    assert not checkpoint.classifier
    assert "classifier with a tanh" in said(checkpoint)


@pytest.mark.parametrize("name", ["monai_vit", "prithvi_1", "beast", "open_clip_timm"])
@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod.", "backbone.", "state_dict", "teacher"])
def test_wrappers_of_wrappers(name: str, wrap: str, tmp_path: Path) -> None:
    """What torch and a training loop put around a library's names changes nothing."""
    weights, expected = recorded(name)
    content: dict[str, Any] = (
        {f"{wrap}{key}": value for key, value in weights.items()} if wrap.endswith(".") else {wrap: weights, "epoch": 3}
    )
    assert_reads(f"{save(content, tmp_path / 'file.pth')}?num_heads=2", expected["images"], expected["tokens"])


def test_volumes_and_unknown_frames_are_refused(tmp_path: Path) -> None:
    monai, _ = recorded("monai_vit")
    key = "patch_embedding.patch_embeddings.weight"
    volumes = monai | {key: monai[key][..., None].expand(-1, -1, -1, -1, 4)}
    prithvi, _ = recorded("prithvi_4")
    tubes = prithvi | {
        "encoder.patch_embed.proj.weight": prithvi["encoder.patch_embed.proj.weight"].repeat(1, 1, 2, 1, 1)
    }
    learned = prithvi | {"encoder.pos_embed": prithvi["encoder.pos_embed"] + torch.rand(1, 65, 16)}
    for weights, reason in ((volumes, "for volumes"), (tubes, "2 slices a patch"), (learned, "how many frames")):
        with pytest.raises(UserError, match=reason):
            open_checkpoint(f"{save(weights, tmp_path / 'file.pth')}?num_heads=2")
    flattened = {name.replace("patch_embeddings.", "patch_embeddings.1."): value for name, value in monai.items()}
    with pytest.raises(UserError, match="perceptron"):
        open_checkpoint(f"{save(flattened, tmp_path / 'file.pth')}?num_heads=2")
