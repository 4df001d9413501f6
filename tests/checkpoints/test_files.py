from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from layergraft import load_encoder
from layergraft.checkpoints.atomic import write_bytes
from layergraft.cli import main
from layergraft.errors import UserError
from layergraft.training.state import Checkpoints


def test_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, 2, said.append)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step, "weights": torch.full((4,), float(step))})
    assert len(list(tmp_path.iterdir())) == 2
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    state = checkpoints.newest()
    assert state is not None
    assert state["step"] == 2
    assert newest.name in said[0]


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
