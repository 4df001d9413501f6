"""Two torchrun agents on loopback, two processes each: one agent is lost, and the other goes on by itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import rows
from test_scale import STEPS, assert_curves, recipe_file, train

import layergraft

pytestmark = pytest.mark.slow


def agent(words: list[str], port: int, host: bool, log: Path) -> subprocess.Popen[bytes]:
    """One "node": an agent of torchrun with two processes."""
    timing = "join_timeout=120,last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=2"
    options = {
        "nnodes": "1:2",
        "nproc-per-node": "2",
        "max-restarts": "3",
        "monitor-interval": "0.2",
        "rdzv-backend": "c10d",
        "rdzv-id": "test",
        "rdzv-endpoint": f"127.0.0.1:{port}",
        "rdzv-conf": f"is_host={str(host).lower()},{timing}",
        "local-addr": "127.0.0.1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", *(f"--{k}={v}" for k, v in options.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(layergraft.__file__).parents[1])}
    with open(log, "ab") as file:
        return subprocess.Popen([*command, "-m", "layergraft", "train", *words], stderr=file, env=environment)


def descendants(pid: int) -> list[int]:
    children = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == pid}
    return [pid, *(other for child in children for other in descendants(child))]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def test_a_lost_agent(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", 1)
    out, log = tmp_path / "run", tmp_path / "log"
    recipe = recipe_file(tmp_path / "recipe.yaml", **{"engine.checkpoint_steps": 2})
    words = ["--recipe", str(recipe), "--out", str(out)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first, second = agent(words, port, True, log), agent(words, port, False, log)
    try:
        while first.poll() is None and second.poll() is None and len(rows(out)) < 5:
            pass
        lost = descendants(second.pid)
        assert len(lost) == 3, "an agent and two processes"
        assert len(rows(out)) < STEPS
        for pid in lost:
            os.kill(pid, signal.SIGKILL)
        assert second.wait(30) == -signal.SIGKILL
        assert first.wait(180) == 0, log.read_text()[-4000:]
    finally:
        for process in (first, second):
            if process.poll() is None:
                for pid in descendants(process.pid):
                    os.kill(pid, signal.SIGKILL)
    assert "goes on at step" in log.read_text()
    assert_curves(out, alone, 1e-4)
