"""Two processes on one study, one of them killed: each job is done once, with the numbers of a study left alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RECIPE = """
encoder: {name: vit_tiny_patch16_224, img_size: 36, in_chans: 1, patch_size: 18, embed_dim: 16, depth: 2, num_heads: 2}
data: {source: "builtin:fashion-canvas?fraction=0.01", holdout: 40, workers: 0}
stages:
  mae: {objective: {name: mae, decoder: {embed_dim: 16, depth: 1, num_heads: 2}}, epochs: 1, batch_size: 32}
  graft: {objective: {name: simclr, projector: [16, 16, 8]}, epochs: 1, batch_size: 32}
evaluate: {protocols: [logistic], shots: [1], splits: 1}
"""
PLANS = "arms: {even: {}, slow: {stages.graft.plan.lr_scale: [0.3, 1]}}\nsearch: 1\n"
JOBS = 2 + 2 * 2 + 2 * 2  # the shared stage, two arms and two floors, with two seeds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "plans.yaml").write_text(PLANS)
    return tmp_path


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "layergraft", "ablate", "--recipe", "recipe.yaml", "--vary", "plans.yaml"]
    words += ["--seeds", "2", "--out", out, "--jobs", "1"]
    return subprocess.Popen(words, cwd=folder, stderr=(folder / "errors").open("ab"))


def finished(out: Path) -> int:
    return len(list(out.glob("outcomes/*/*.json")))


def numbers(out: Path) -> Any:
    """study.json without what depends on time and place."""
    study = json.loads((out / "study.json").read_text())
    for key in ("seconds", "command", "commit"):
        del study[key]
    for arm in study["arms"]:
        for seed in arm["seeds"]:
            del seed["seconds"]
    return study


def wait_for(process: subprocess.Popen[bytes], out: Path, jobs: int) -> None:
    end = time.monotonic() + 1200
    while time.monotonic() < end and process.poll() is None and finished(out) < jobs:
        time.sleep(0.02)


def check_shared(folder: Path, kills: list[int]) -> None:
    """A study of two processes, of which now one, now the other is killed after so many jobs, beside one left alone."""
    whole, out = folder / "whole", folder / "out"
    assert start(folder, "whole").wait(1800) == 0, (folder / "errors").read_text()
    assert finished(whole) == JOBS
    both = [start(folder, "out"), start(folder, "out")]
    for number, jobs in enumerate(kills):
        process = both[number % 2]
        wait_for(process, out, jobs)
        process.send_signal(signal.SIGKILL)
        process.wait()
        both[number % 2] = start(folder, "out")
    assert [process.wait(1800) for process in both] == [0, 0], (folder / "errors").read_text()
    assert numbers(out) == numbers(whole)
    trained = re.findall(r"^Encoder: .*/runs/(.*)/encoder$", (out / "jobs.log").read_text(), re.MULTILINE)
    assert len(trained) == len(set(trained)) == 6, trained  # nothing twice; the shared stage once a seed
    assert sum("mae" in name for name in trained) == 2
    assert not (out / "locks").exists()


@pytest.mark.slow
def test_a_killed_process_and_another_do_each_job_once(folder: Path) -> None:
    check_shared(folder, [4])


@pytest.mark.soak
def test_five_kills_change_nothing(folder: Path) -> None:
    check_shared(folder, [1, 2, 4, 6, 8])
