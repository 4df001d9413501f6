"""Whatever lies beside a checkpoint, the newest whole ones are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layergraft.config import EngineConfig
from layergraft.training.checkpoints import Checkpoints


def save(folder: Path, step: int, keep: int = 2) -> list[str]:
    """Save the state of a step as a run does that is at it; returns what was said."""
    said: list[str] = []
    with Checkpoints(folder, EngineConfig(keep=keep), said.append) as checkpoints:
        checkpoints.save({"step": step, "returns": 0, "rejected": 0, "weight": torch.full((3,), float(step))})
    return said


def whole_steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("step-*.pt"))


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("damaged", [1, 2, 5])
def test_damaged_files_of_later_steps_push_no_valid_one_out(tmp_path: Path, keep: int, damaged: int) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep)
    for number in range(damaged):
        (tmp_path / f"step-{9 + number:09d}-0-0badc0de.pt").write_bytes(b"cut off")
    said = save(tmp_path, 4, keep)
    assert whole_steps(tmp_path) == [1, 2, 3, 4][-keep:]
    assert len(list(tmp_path.glob("damaged-step-*.pt"))) == damaged
    assert all("is damaged and passed over" in text for text in said)
    assert len(said) == damaged
    with Checkpoints(tmp_path, EngineConfig(), said.append) as checkpoints:
        newest = checkpoints.newest()
    assert newest is not None
    assert newest[1]["step"] == 4


def test_a_damaged_one_between_valid_ones_is_not_counted(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (path,) = tmp_path.glob("step-000000002-*.pt")
    path.write_bytes(path.read_bytes()[:-1])
    save(tmp_path, 3)
    assert whole_steps(tmp_path) == [1, 3]


def test_a_process_that_does_not_write_leaves_damaged_ones_where_they_are(tmp_path: Path) -> None:
    save(tmp_path, 1)
    bad = tmp_path / "step-000000009-0-0badc0de.pt"
    bad.write_bytes(b"cut off")
    said: list[str] = []
    with Checkpoints(tmp_path, EngineConfig(), said.append, writes=False) as checkpoints:
        newest = checkpoints.newest()
    assert newest is not None
    assert newest[1]["step"] == 1
    assert bad.is_file()
    assert len(said) == 1
