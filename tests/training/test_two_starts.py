"""Two starts in one directory, and workers whose torchrun is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import descendants, finish, free_port, rows, running, start, wait_for, write_recipe
from test_kill import in_no_hurry

import layergraft


def test_of_two_starts_exactly_one_trains(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*write_recipe(tmp_path / "recipe.yaml"), "--out", str(out)]
    errors = [tmp_path / "first", tmp_path / "second"]
    both = [start(words, file, prepare=in_no_hurry) for file in errors]
    with running(*both):
        assert wait_for(lambda: len(rows(out)) >= 2, both[0]) or wait_for(lambda: len(rows(out)) >= 2, both[1])
        assert not all(process.is_alive() for process in both)
        trains, refused = sorted(range(2), key=lambda number: both[number].is_alive(), reverse=True)
        said = errors[refused].read_text()
        assert both[refused].exitcode == 2, said
        assert f"process {both[trains].pid} on" in said
        third = tmp_path / "third"
        assert finish(start(words, third)) == [2], third.read_text()
        both[trains].kill()
        both[trains].join()
    steps = [(row["stage"], row["step"]) for row in rows(out)]
    assert steps == sorted(set(steps))
    left = out / "encoder" / f".{both[trains].pid}-1.tmp"
    left.parent.mkdir(exist_ok=True)
    left.touch()
    assert finish(start(words, errors[0])) == [0], errors[0].read_text()
    assert not left.exists()
    assert not (out / "lock").exists()


ORPHAN = """
import os, signal, sys, time
from layergraft.errors import Stopped
from layergraft.runs.interruption import SignalGuard, check
from layergraft.training import launch
launch._WATCH, launch._ORPHAN_SECONDS = 0.1, 1.0
if os.fork() == 0:
    launch._end_with_torchrun()
    with SignalGuard():
        print(os.getpid(), flush=True)
        try:
            while True:
                time.sleep(0.05)
                if sys.argv[1] == "saves":
                    check()
        except Stopped:
            print("saved", flush=True)
            os._exit(75)
time.sleep(60)
"""


def test_a_worker_ends_with_its_torchrun() -> None:
    for behaviour, last in (("saves", b"saved\n"), ("hangs", b"")):
        with subprocess.Popen([sys.executable, "-c", ORPHAN, behaviour], stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            worker = int(agent.stdout.readline())
            agent.send_signal(signal.SIGKILL)
            begun = time.monotonic()
            assert agent.stdout.readline() == last  # and the end of the pipe, which the worker holds
        assert time.monotonic() - begun < 10
        assert not _runs(worker)


def _runs(pid: int, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
            os.kill(pid, 0)
        except (OSError, IndexError):
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_no_worker_outlives_its_torchrun(tmp_path: Path) -> None:
    """A real torchrun of two, killed while they train: within ten seconds neither is left, and all is saved."""
    out, log = tmp_path / "run", tmp_path / "log"
    words = [*write_recipe(tmp_path / "recipe.yaml", {"stages.mae.epochs": 2000}), "--out", str(out)]
    options = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(layergraft.__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "layergraft", "train", *words]
    with open(log, "ab") as file, subprocess.Popen(command, stderr=file, env=environment) as agent:
        try:
            end = time.monotonic() + 300
            while time.monotonic() < end and agent.poll() is None and len(rows(out)) < 4:
                time.sleep(0.05)
            workers = descendants(agent.pid)[1:]
            assert len(workers) == 2, log.read_text()
        finally:
            agent.kill()
        begun = time.monotonic()
        left = [pid for pid in workers if _runs(pid, 10)]
        took = time.monotonic() - begun
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == [], log.read_text()
    print(f"gone after {took:.1f} s")
    said = log.read_text()
    assert "torchrun is gone" in said
    assert "Traceback" not in said
    assert list(out.glob("stages/0-mae/checkpoints/step-*.pt"))
