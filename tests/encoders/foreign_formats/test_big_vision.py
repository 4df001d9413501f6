"""big_vision's `.npz`, against timm, which reads them too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from library_files import assert_reads, images, perturbed, said
from torch import Tensor

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

SHAPE = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
}
Arrays = dict[str, Any]


def flax_names(model: Any, first_vit: bool) -> Arrays:
    """The names and layouts that timm's `_load_weights` reads, of the first ViT or of big_vision."""
    attention, mlp, norm2 = (1, 3, 2) if first_vit else (0, 0, 1)
    state = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    arrays: Arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding" if first_vit else "pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    if "cls_token" in state:
        arrays["cls"] = state["cls_token"]
    width, heads = model.embed_dim, model.blocks[0].attn.num_heads
    by_head = (heads, width // heads)
    for index in range(2):
        ours, theirs = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        for number, name in ((1, 0), (2, norm2)):
            arrays[f"{theirs}/LayerNorm_{name}/scale"] = state[f"{ours}.norm{number}.weight"]
            arrays[f"{theirs}/LayerNorm_{name}/bias"] = state[f"{ours}.norm{number}.bias"]
        block = f"{theirs}/MultiHeadDotProductAttention_{attention}"
        kernels = np.split(state[f"{ours}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{ours}.attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            arrays[f"{block}/{part}/kernel"] = kernel.T.reshape(width, *by_head)
            arrays[f"{block}/{part}/bias"] = bias.reshape(by_head)
        arrays[f"{block}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(*by_head, width)
        arrays[f"{block}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for number in (0, 1):
            arrays[f"{theirs}/MlpBlock_{mlp}/Dense_{number}/kernel"] = state[f"{ours}.mlp.fc{number + 1}.weight"].T
            arrays[f"{theirs}/MlpBlock_{mlp}/Dense_{number}/bias"] = state[f"{ours}.mlp.fc{number + 1}.bias"]
    return arrays


def scanned(arrays: Arrays) -> Arrays:
    """Blocks in one array, a block a row, as newer configurations of big_vision write them."""
    rest = {key: value for key, value in arrays.items() if "encoderblock_" not in key}
    tails = [key.removeprefix("Transformer/encoderblock_0/") for key in arrays if "encoderblock_0" in key]
    return rest | {
        f"Transformer/encoderblock/{tail}": np.stack([arrays[f"Transformer/encoderblock_{i}/{tail}"] for i in (0, 1)])
        for tail in tails
    }


@torch.no_grad()
def timms_reading(file: Path, **arguments: Any) -> Tensor:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SHAPE, **arguments).eval()
    model.load_pretrained(str(file))
    return model.forward_features(images())


@pytest.mark.parametrize(("prefix", "first_vit"), [("", True), ("opt/target/", True), ("params/", False)])
@pytest.mark.parametrize("class_token", [True, False])
def test_features_are_those_of_timm(prefix: str, first_vit: bool, class_token: bool, tmp_path: Path) -> None:
    arguments: Arrays = {"class_token": class_token, "global_pool": "token" if class_token else "avg"}
    model = perturbed(timm.create_model("vit_tiny_patch16_224", num_classes=0, fc_norm=False, **SHAPE, **arguments))
    arrays = flax_names(model, first_vit)
    for name, content in (("plain", arrays), ("scanned", scanned(arrays))):
        if name == "scanned" and first_vit:
            continue
        file = tmp_path / f"{name}.npz"
        np.savez(file, **{prefix + key: value for key, value in content.items()})
        expected = timms_reading(file, fc_norm=False, **arguments)
        checkpoint = assert_reads(file, images(), expected)
        assert checkpoint.format == "big_vision"
        assert "act=gelu_tanh" in said(checkpoint)
        assert "num_heads" not in said(checkpoint)  # the file tells them


def test_the_image_tower_of_a_pair_and_half_precision(tmp_path: Path) -> None:
    """SigLIP's file: a text tower beside it, an attention pool on top, numbers in bfloat16, which NumPy calls `V2`."""
    model = perturbed(
        timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, class_token=False, global_pool="avg", fc_norm=False, **SHAPE
        )
    )
    arrays = {f"params/img/{key}": value for key, value in flax_names(model, False).items()}
    beside = {"params/txt/Embed_0/embedding": np.zeros((4, 4), np.float32), "params/t": np.zeros(1, np.float32)}
    pool = {"params/img/MAPHead_0/probe": np.zeros((1, 1, 32), np.float32)}
    halved = {
        key: torch.from_numpy(np.ascontiguousarray(value)).bfloat16().view(torch.int16).numpy().view("V2")
        for key, value in arrays.items()
    }
    np.savez(tmp_path / "file.npz", **halved, **beside, **pool)
    checkpoint = open_checkpoint(tmp_path / "file.npz")
    assert "attention pooling" in said(checkpoint)
    assert "half precision were widened" in said(checkpoint)
    weight = checkpoint.encoder.vit.blocks[1].mlp.fc1.weight
    assert torch.equal(weight, model.blocks[1].mlp.fc1.weight.bfloat16().float())


def test_what_is_unknown_is_named(tmp_path: Path) -> None:
    model = perturbed(timm.create_model("vit_tiny_patch16_224", num_classes=0, **SHAPE))
    arrays = flax_names(model, False)
    np.savez(tmp_path / "extra.npz", **arrays, **{"Transformer/surprise/kernel": np.zeros((3, 3), np.float32)})
    del arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_0/key/kernel"]
    np.savez(tmp_path / "less.npz", **arrays)
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.savez(tmp_path / "objects.npz", **{"embedding/kernel": np.array([object()])})
    (tmp_path / "cut.npz").write_bytes((tmp_path / "less.npz").read_bytes()[:500])
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    reasons = {
        "extra.npz": "surprise",
        "less.npz": "attn.query",
        "other.npz": "no format that is known",
        "cut.npz": "read",
    }
    for name, reason in (reasons | {"objects.npz": "object", "keras.h5": "HDF5 file, as Keras writes"}).items():
        with pytest.raises(UserError, match=reason):
            open_checkpoint(tmp_path / name)
