"""Two torchrun agents on loopback, two processes each: one agent is lost, and the other goes on by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import descendants, free_port, rows
from test_scale import STEPS, assert_curves, recipe_file, train

import layergraft

pytestmark = pytest.mark.slow


def agent(words: list[str], port: int, host: bool, log: Path) -> subprocess.Popen[bytes]:
    """One "node": an agent of torchrun with two processes."""
    # A machine may be so busy that a living agent says nothing for seconds; one that is lost is given up after ten.
    timing = "join_timeout=300,last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=10"
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


def wait_for(condition: Callable[[], bool], agent: subprocess.Popen[bytes], seconds: float = 600) -> None:
    """Until a condition holds, the agent has ended, or ten minutes are over."""
    end = time.monotonic() + seconds
    while agent.poll() is None and not condition() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_lost_agent(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", 1)
    out, log = tmp_path / "run", tmp_path / "log"
    recipe = recipe_file(tmp_path / "recipe.yaml", **{"engine.checkpoint_steps": 2})
    words = ["--recipe", str(recipe), "--out", str(out)]
    port = free_port()
    # The one that is to be lost starts first and waits for its host, so that both train from the first step on.
    second, first = agent(words, port, False, log), agent(words, port, True, log)
    try:
        wait_for(lambda: second.poll() is not None or len(rows(out)) >= 5, first)
        lost = descendants(second.pid)
        assert len(lost) == 3, f"not an agent and two processes:\n{log.read_text()}"
        for pid in lost:  # no step is made from here on, however long this takes
            os.kill(pid, signal.SIGSTOP)
        assert len(rows(out)) < STEPS
        for pid in lost:
            os.kill(pid, signal.SIGKILL)
        assert second.wait(60) == -signal.SIGKILL
        wait_for(lambda: False, first)
        assert first.poll() == 0, log.read_text()
    finally:
        for process in (first, second):
            if process.poll() is None:
                for pid in descendants(process.pid):
                    os.kill(pid, signal.SIGKILL)
    said = log.read_text()
    assert "goes on at step" in said
    assert "Another process of this run is gone" in said
    assert "this is a bug" not in said
    assert "Traceback" not in said
    assert_curves(out, alone)
