"""tools/check_gpu.py: its code paths, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "check_gpu.py"
WITHOUT_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=WITHOUT_GPU)
    assert done.returncode == 2
    assert "no CUDA GPU" in done.stderr


@pytest.mark.slow
def test_every_check_runs_small() -> None:
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(done.stdout.splitlines()[-1])["lines"]
    assert {line["check"] for line in lines} == {"pixels", "resume", "losses", "memory", "speed"}
