from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from layergraft import load_encoder
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig, EngineConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.safe_load import read_directory, read_file
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.runs.atomic import write_bytes
from layergraft.runs.layout import PARTS
from layergraft.training.checkpoints import Checkpoints


def test_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoints = Checkpoints(tmp_path, EngineConfig(keep=2), warnings.append)
    with checkpoints:
        for step in (1, 2, 3):
            checkpoints.save({"step": step, "returns": 0, "weights": torch.full((4,), float(step))})
    assert len(list(tmp_path.iterdir())) == 2
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    restored = checkpoints.newest()
    assert restored is not None
    assert restored[1]["step"] == 2
    assert newest.name in warnings[0]


def test_failed_write_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state"
    write_bytes(file, b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_bytes(file, b"after")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch /tmp/layergraft-was-here",))


@pytest.mark.parametrize("content", ["truncated", "pickle", "other"])
def test_files_that_cannot_be_read(tmp_path: Path, fixtures: Path, content: str) -> None:
    file = tmp_path / "model.pth"
    if content == "truncated":
        file.write_bytes((fixtures / "mae_tiny" / "checkpoint.pth").read_bytes()[:2000])
    elif content == "pickle":
        file.write_bytes(pickle.dumps({"model": _Runs()}))
    else:
        torch.save({"weights": torch.zeros(3)}, file)
    with pytest.raises(UserError):
        load_encoder(file)
    assert main(["evaluate", "--encoder", str(file), "--data", "builtin:fashion"]) == 2
    assert not Path("/tmp/layergraft-was-here").exists()


def test_heads_must_be_known(fixtures: Path) -> None:
    with pytest.raises(UserError, match="num_heads"):
        load_encoder(fixtures / "mae_tiny" / "checkpoint.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_and_damaged_files(tmp_path: Path, fixtures: Path, suffix: str) -> None:
    """Cut or changed anywhere: refused, or what was changed holds no weights (a zip's padding, a file's name)."""
    original = torch.load(fixtures / "mae_tiny" / "checkpoint.pth", weights_only=True)["model"]
    whole, file = tmp_path / f"whole{suffix}", tmp_path / f"damaged{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(original, whole)
    content = whole.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(500, len(content), len(content) // 9), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(UserError):
            load_encoder(f"{file}?num_heads=4")
    random = np.random.default_rng(0)
    refused = 0
    for position in random.integers(0, len(content) if suffix == ".pth" else 4000, 60):
        changed = bytearray(content)
        changed[position] ^= 0x55
        file.write_bytes(changed)
        try:
            read = read_file(file)
        except UserError:
            refused += 1
        else:
            assert suffix == ".safetensors" or all(torch.equal(read[key], value) for key, value in original.items())
    assert refused >= 30


def test_arguments_and_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    """Training checkpoints hold them; they run no code."""
    values = {"args": argparse.Namespace(lr=1.0), "loss": np.float64(0.5), "lr": np.float32(0.1), "n": np.int64(3)}
    torch.save(values | {"model": {}}, tmp_path / "file.pth")
    assert read_file(tmp_path / "file.pth")["loss"] == 0.5


@pytest.mark.parametrize("tensor", [torch.zeros(3, 3).to_sparse(), torch.zeros(3, device="meta")])
def test_sparse_and_empty_tensors_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"model": {"cls_token": tensor}}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth.*model\.cls_token"):
        read_file(tmp_path / "file.pth")


def test_a_file_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, object] = {"model": {}}
    content["again"] = content
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth.*without end"):
        read_file(tmp_path / "file.pth")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": null}', '{"weight_map": []}'])
def test_an_index_that_names_no_parts(content: str, tmp_path: Path) -> None:
    (tmp_path / PARTS).write_text(content)
    with pytest.raises(UserError, match=PARTS):
        read_directory(tmp_path)


@pytest.mark.parametrize("arguments", [None, [], {"num_heads": 0}, {"depth": "two"}, {"act_layer": 0.5}])
def test_damaged_configuration_of_an_encoder(arguments: object, tmp_path: Path) -> None:
    save_encoder(create_encoder(EncoderConfig(name="vit_tiny_patch16_224", img_size=32, depth=1), 0), tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": arguments}))
    with pytest.raises(UserError, match=r"config\.json"):
        load_encoder(tmp_path)


def test_code_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"cls_token": torch.zeros(1)}, "run": _Runs()}, tmp_path / "evil.pth")
    assert main(["inspect", str(tmp_path / "evil.pth")]) == 2
    error = capsys.readouterr().err
    assert "wants to run code (posix.system)" in error
    assert not Path("/tmp/layergraft-was-here").exists()


@pytest.mark.parametrize("size", [[], [32], [32, 16], [32, 32, 32]])
def test_a_size_that_is_another(size: list[int], tmp_path: Path) -> None:
    save_encoder(create_encoder(EncoderConfig(name="vit_tiny_patch16_224", img_size=32, depth=1), 0), tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text())
    changed = config | {"model_args": config["model_args"] | {"img_size": size}}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"height and width|other shape"):
        load_encoder(tmp_path)
